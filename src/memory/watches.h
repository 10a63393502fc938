// Private: who is told of what, on which executor. The watches of one kind.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include <absl/functional/any_invocable.h>
#include <boost/asio/strand.hpp>

#include "faaskit/port/idle_queue.h"
#include "support/mutex.h"

namespace faaskit::memory {

// A watch may outlive whoever tells it.
template <class Item>
class Watches : public std::enable_shared_from_this<Watches<Item>> {
 public:
  using Callback = absl::AnyInvocable<void(std::vector<Item>)>;

  std::unique_ptr<Watch> add(std::uint64_t whom, asio::any_io_executor executor, Callback callback) {
    auto teller = std::make_shared<Teller>(std::move(executor), std::move(callback));
    MutexLock lock(mutex_);
    tellers_.emplace(whom, teller);
    return std::make_unique<Ending>(this->shared_from_this(), whom, std::move(teller));
  }

  // Tells the watch for `whom`; with `or_any`, any other if there is none.
  void tell(std::uint64_t whom, bool or_any, std::vector<Item> items) const {
    if (std::shared_ptr<Teller> teller = find(whom, or_any))
      Teller::tell(std::move(teller), std::move(items));
  }

 private:
  // On a strand of its own, so that a callback never runs beside itself or after its end.
  class Teller {
   public:
    Teller(asio::any_io_executor executor, Callback callback)
        : strand_(asio::make_strand(std::move(executor))), callback_(std::move(callback)) {}

    static void tell(std::shared_ptr<Teller> self, std::vector<Item> items) {
      auto strand = self->strand_;
      asio::post(strand, [self = std::move(self), items = std::move(items)]() mutable {
        if (self->alive_.load(std::memory_order_acquire)) self->callback_(std::move(items));
      });
    }
    void end() { alive_.store(false, std::memory_order_release); }

   private:
    asio::strand<asio::any_io_executor> strand_;
    Callback callback_;
    std::atomic<bool> alive_{true};
  };

  class Ending final : public Watch {
   public:
    Ending(std::weak_ptr<Watches> watches, std::uint64_t whom, std::shared_ptr<Teller> teller)
        : watches_(std::move(watches)), whom_(whom), teller_(std::move(teller)) {}
    ~Ending() override {
      teller_->end();
      if (auto watches = watches_.lock()) watches->remove(whom_, teller_);
    }

   private:
    const std::weak_ptr<Watches> watches_;
    const std::uint64_t whom_;
    const std::shared_ptr<Teller> teller_;
  };

  void remove(std::uint64_t whom, const std::shared_ptr<Teller>& teller) {
    MutexLock lock(mutex_);
    auto [first, last] = tellers_.equal_range(whom);
    for (auto it = first; it != last; ++it) {
      if (it->second == teller) {
        tellers_.erase(it);
        return;
      }
    }
  }
  std::shared_ptr<Teller> find(std::uint64_t whom, bool or_any) const {
    MutexLock lock(mutex_);
    auto it = tellers_.find(whom);
    if (it == tellers_.end() && or_any) it = tellers_.begin();
    return it == tellers_.end() ? nullptr : it->second;
  }

  mutable Mutex mutex_;
  std::multimap<std::uint64_t, std::shared_ptr<Teller>> tellers_ FAASKIT_GUARDED_BY(mutex_);
};

}  // namespace faaskit::memory
