// Memory for rows: taken in growing regions, handed out in blocks, never moved.
#pragma once

#include <sys/mman.h>

#include <algorithm>
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

// Gives memory its pages now, with one call in place of a fault for each. What is read before it is written
// would else be mapped twice: first to the system's page of zeros, then, every processor being told, to one
// of its own.
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

constexpr size_t kCacheLine = 64;

// Values that are written before they are read: growing forgets them and sets nothing to zero. They begin
// with a cache line, so that rows as wide as lines share none.
template <typename T>
class Buffer {
  public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept
        : data_(std::move(other.data_)), capacity_(std::exchange(other.capacity_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        data_ = std::move(other.data_);
        capacity_ = std::exchange(other.capacity_, 0);
        return *this;
    }

    size_t capacity() const { return capacity_; }
    void grow_to(size_t n) {
        if (n <= capacity_) return;
        data_.reset(static_cast<T*>(::operator new(n * sizeof(T), kAlignment)));
        capacity_ = n;
    }
    T* data() { return data_.get(); }
    const T* data() const { return data_.get(); }
    T& operator[](size_t i) { return data_.get()[i]; }
    const T& operator[](size_t i) const { return data_.get()[i]; }

  private:
    static constexpr std::align_val_t kAlignment{kCacheLine};

    struct Free {
        void operator()(T* at) const { ::operator delete(at, kAlignment); }
    };

    std::unique_ptr<T, Free> data_;
    size_t capacity_ = 0;
};

// Hands out blocks of one size, to any thread; what they hold is not set. Regions double up to a bound, so a
// small table is small and a large one has few of them.
class Arena {
  public:
    explicit Arena(size_t block_bytes) : block_(block_bytes) {}

    size_t block_bytes() const { return block_; }

    std::byte* block() {
        std::lock_guard guard(mutex_);
        while (!open_.empty() && open_.back().used + block_ > open_.back().pages.size()) {
            full_.push_back(std::move(open_.back().pages));
            open_.pop_back();
        }
        if (open_.empty()) {
            open_.push_back({Pages(std::max(next_bytes_, block_)), 0, false});
            next_bytes_ = std::min(2 * next_bytes_, kLargest);
        }
        std::byte* at = open_.back().pages.data() + open_.back().used;
        open_.back().used += block_;
        return at;
    }

    // Takes over what others do not need any more. It comes first: new pages cost more than memory that is
    // there.
    void add(Pages&& pages) noexcept {
        std::lock_guard guard(mutex_);
        try {
            open_.push_back({std::move(pages), 0, true});
        } catch (const std::bad_alloc&) {
            // Then the system has them back.
        }
    }

    // What was taken over and is not handed out yet. New regions have no pages where nobody wrote.
    size_t idle_bytes() const {
        std::lock_guard guard(mutex_);
        size_t bytes = 0;
        for (const Region& region : open_) {
            if (region.taken_over) bytes += region.pages.size() - region.used;
        }
        return bytes;
    }

  private:
    static constexpr size_t kFirstBlocks = 16;
    static constexpr size_t kLargest = size_t{64} << 20;

    struct Region {
        Pages pages;
        size_t used;
        bool taken_over;
    };

    size_t block_;
    mutable std::mutex mutex_;
    size_t next_bytes_ = kFirstBlocks * block_;
    std::vector<Region> open_;  // with room left; the last is used first
    std::vector<Pages> full_;
};

// Memory for things that grow alike: each has its part of one piece, so that they fill huge pages together
// long before one alone could.
class Siblings {
  public:
    // `outgrown` takes over what all have left.
    Siblings(uint32_t number, Arena& outgrown) : number_(number), outgrown_(outgrown) {}

    // Zeroed; `bytes` is a power of two. Each sibling asks once for a size, and for ever larger ones.
    std::shared_ptr<std::byte> part(uint32_t sibling, size_t bytes) {
        const bool alone = bytes >= kHugePage;
        std::shared_ptr<Pages> piece;
        if (alone) {
            piece = make(bytes);
        } else {
            std::lock_guard guard(mutex_);
            Piece& known = pieces_[std::countr_zero(bytes)];
            if (!known.pages) known.pages = make(bytes * number_);
            piece = known.pages;
            if (++known.taken == number_) known.pages.reset();
        }
        std::byte* at = piece->data() + (alone ? 0 : sibling * bytes);
        populate(at, bytes);
        return {std::move(piece), at};
    }

  private:
    // Kept until each has its part: where a checkpoint is loaded, one grows to the end before the next
    // begins.
    struct Piece {
        std::shared_ptr<Pages> pages;
        uint32_t taken = 0;
    };

    std::shared_ptr<Pages> make(size_t bytes) {
        return {new Pages(bytes), [this](Pages* left) {
                    const std::unique_ptr<Pages> own(left);
                    if (left->size() >= kHugePage) outgrown_.add(std::move(*left));
                }};
    }

    uint32_t number_;
    Arena& outgrown_;
    std::mutex mutex_;
    Piece pieces_[std::countr_zero(kHugePage)];
};

}  // namespace onstream
