#include "threads.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace onstream {
namespace {

// Between the phases of one pull or push helpers are needed again within microseconds; spinning that long is
// cheaper than a sleep and a wake-up. Spinning longer would take the processor from threads that read and
// hash.
constexpr int kSpins = 300;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

// One call of for_each_item. Helpers hold it by shared_ptr, so a late one finds it finished, not gone.
struct Task {
    const std::function<void(size_t)>* work;
    size_t items;
    std::atomic<size_t> next{0};
    std::atomic<size_t> finished{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error;  // the first; read after all items are finished

    void help() {
        for (size_t item = next.fetch_add(1); item < items; item = next.fetch_add(1)) {
            try {
                (*work)(item);
            } catch (...) {
                if (!failed.exchange(true)) error = std::current_exception();
            }
            finished.fetch_add(1, std::memory_order_release);
        }
    }
};

class Pool {
  public:
    Pool() : owner_(getpid()) {}

    bool of_this_process() const { return owner_ == getpid(); }

    bool try_run(int threads, size_t items, const std::function<void(size_t)>& work) {
        std::unique_lock<std::mutex> taken(run_, std::try_to_lock);
        if (!taken.owns_lock()) return false;
        while (static_cast<int>(helpers_.size()) < threads - 1) {
            helpers_.emplace_back([this, index = static_cast<int>(helpers_.size())] { serve(index); });
            helpers_.back().detach();
        }
        auto task = std::make_shared<Task>();
        task->work = &work;
        task->items = items;
        {
            std::lock_guard<std::mutex> guard(mutex_);
            task_ = task;
            wanted_ = threads - 1;
            generation_.fetch_add(1, std::memory_order_release);
        }
        changed_.notify_all();
        task->help();
        // A helper that lost its processor in the middle of an item may have this one.
        for (int i = 0; task->finished.load(std::memory_order_acquire) < items; ++i) {
            if (i < kSpins) {
                pause();
            } else {
                std::this_thread::yield();
            }
        }
        if (task->failed.load()) std::rethrow_exception(task->error);
        return true;
    }

  private:
    void serve(int index) {
        uint64_t done = 0;
        for (;;) {
            for (int i = 0; i < kSpins && generation_.load(std::memory_order_acquire) == done; ++i) pause();
            std::shared_ptr<Task> task;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                changed_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != done; });
                done = generation_.load(std::memory_order_relaxed);
                if (index < wanted_) task = task_;
            }
            if (task) task->help();
        }
    }

    const pid_t owner_;
    std::mutex run_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::atomic<uint64_t> generation_{0};
    std::shared_ptr<Task> task_;
    int wanted_ = 0;
    std::vector<std::thread> helpers_;
};

// The pool is never destroyed: its threads sleep until the process ends. A forked child, whose helpers did
// not survive the fork, gets a pool of its own.
Pool& pool() {
    static std::mutex mutex;
    static Pool* current = nullptr;
    std::lock_guard<std::mutex> guard(mutex);
    if (current == nullptr || !current->of_this_process()) current = new Pool();
    return *current;
}

}  // namespace

void for_each_item(int threads, size_t items, const std::function<void(size_t)>& work) {
    if (threads > 1 && items > 1 && pool().try_run(threads, items, work)) return;
    for (size_t item = 0; item < items; ++item) work(item);
}

}  // namespace onstream
