// A small pool that shares out independent items of work.
#pragma once

#include <cstddef>
#include <functional>

namespace onstream {

// Calls work(item) once for each item in [0, items), on the calling thread and up to `threads - 1` others.
// Items are claimed one by one, so a helper that the system does not schedule delays nothing. Which thread
// runs an item must not change its result. Safe to call from several threads: who finds the pool taken works
// alone. The first exception of an item is thrown when all are done.
void for_each_item(int threads, size_t items, const std::function<void(size_t)>& work);

}  // namespace onstream
