// Memory for rows: taken in growing regions, handed out in blocks, never moved.
#pragma once

#include <sys/mman.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace onstream {

constexpr size_t kHugePage = size_t{2} << 20;

// Gives memory its pages now, with one call in place of a fault for each. What is read before it is written would
// else be mapped twice: first to the system's page of zeros, then, every processor being told, to one of its own.
inline void populate([[maybe_unused]] std::byte* at, [[maybe_unused]] size_t bytes) {
#ifdef MADV_POPULATE_WRITE
    // Older systems refuse it; then pages come as they are used.
    madvise(at, bytes, MADV_POPULATE_WRITE);
#endif
}

// Zeroed memory straight from the system. Large pieces ask for huge pages: rows are read at random, and with
// small pages every read would also miss the translation buffer.
class Pages {
  public:
    Pages() = default;
    explicit Pages(size_t bytes) {
        if (bytes == 0) return;
        const bool huge = bytes >= kHugePage;
        size_ = huge ? (bytes + kHugePage - 1) / kHugePage * kHugePage : bytes;
        mapped_ = size_ + (huge ? kHugePage : 0);
        base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base_ == MAP_FAILED) {
            base_ = nullptr;
            throw std::bad_alloc();
        }
        auto at = reinterpret_cast<uintptr_t>(base_);
        if (huge) at = (at + kHugePage - 1) / kHugePage * kHugePage;
        data_ = reinterpret_cast<std::byte*>(at);
#ifdef MADV_HUGEPAGE
        if (huge) madvise(data_, size_, MADV_HUGEPAGE);
#endif
    }
    Pages(Pages&& other) noexcept { swap(other); }
    Pages& operator=(Pages&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Pages() {
        if (base_ != nullptr) munmap(base_, mapped_);
    }

    std::byte* data() const { return data_; }
    size_t size() const { return size_; }

  private:
    void swap(Pages& other) {
        std::swap(base_, other.base_);
        std::swap(mapped_, other.mapped_);
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
    }

    void* base_ = nullptr;
    size_t mapped_ = 0;
    std::byte* data_ = nullptr;
    size_t size_ = 0;
};

// Values that are written before they are read: growing forgets them and sets nothing to zero.
template <typename T>
class Buffer {
  public:
    void grow_to(size_t n) {
        if (n <= capacity_) return;
        data_ = std::make_unique_for_overwrite<T[]>(n);
        capacity_ = n;
    }
    T* data() { return data_.get(); }
    const T* data() const { return data_.get(); }
    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }

  private:
    std::unique_ptr<T[]> data_;
    size_t capacity_ = 0;
};

// Hands out blocks of one size, to any thread. Regions double up to a bound, so a small table is small and a
// large one has few of them.
class Arena {
  public:
    explicit Arena(size_t block_bytes) : block_(block_bytes) {}

    std::byte* block() {
        std::lock_guard guard(mutex_);
        if (used_ + block_ > current_) {
            const size_t wanted = regions_.empty() ? 16 * block_ : 2 * current_;
            current_ = wanted < kLargest ? wanted : kLargest;
            if (current_ < block_) current_ = block_;
            regions_.emplace_back(current_);
            used_ = 0;
        }
        std::byte* at = regions_.back().data() + used_;
        used_ += block_;
        return at;
    }

    size_t block_bytes() const { return block_; }

  private:
    static constexpr size_t kLargest = size_t{64} << 20;
    size_t block_;
    std::mutex mutex_;
    size_t current_ = 0;
    size_t used_ = 0;
    std::vector<Pages> regions_;
};

// Memory for things that grow alike: each has its part of one piece, so that they fill huge pages together long
// before one alone could.
class Siblings {
  public:
    explicit Siblings(uint32_t number) : number_(number) {}

    // Zeroed; `bytes` is a power of two. Each sibling asks once for a size. A piece goes with its last part.
    std::shared_ptr<std::byte> part(uint32_t sibling, size_t bytes) {
        const bool alone = bytes >= kHugePage;
        std::shared_ptr<Pages> piece;
        if (alone) {
            piece = std::make_shared<Pages>(bytes);
        } else {
            std::lock_guard guard(mutex_);
            std::weak_ptr<Pages>& known = pieces_[std::countr_zero(bytes)];
            piece = known.lock();
            if (!piece) known = piece = std::make_shared<Pages>(bytes * number_);
        }
        std::byte* at = piece->data() + (alone ? 0 : sibling * bytes);
        populate(at, bytes);
        return {std::move(piece), at};
    }

  private:
    uint32_t number_;
    std::mutex mutex_;
    std::weak_ptr<Pages> pieces_[std::countr_zero(kHugePage)];
};

}  // namespace onstream
