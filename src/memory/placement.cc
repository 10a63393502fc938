#include "faaskit/memory/placement.h"

#include <atomic>
#include <map>
#include <utility>

#include <absl/strings/str_format.h>
#include <boost/asio/strand.hpp>

#include "support/mutex.h"

namespace faaskit::memory {
namespace {

// What is pushed while a host serves goes to it in batches: one post takes all that has come by then.
class Lane : public std::enable_shared_from_this<Lane> {
 public:
  Lane(asio::any_io_executor executor, StartQueue::StartsHandler starts, std::size_t max_queued)
      : strand_(asio::make_strand(std::move(executor))), starts_(std::move(starts)), max_queued_(max_queued) {}

  absl::Status push(HostId host, StartRequest start) {
    bool wake = false;
    {
      MutexLock lock(mutex_);
      if (queued_.size() >= max_queued_) {
        return absl::ResourceExhaustedError(absl::StrFormat("push %s: host %x has %d starts queued; max_queued is %d",
                                                            to_string(start.id), host, queued_.size(), max_queued_));
      }
      wake = queued_.empty();
      queued_.push_back(std::move(start));
    }
    load_.fetch_add(1, std::memory_order_relaxed);
    if (wake) asio::post(strand_, [self = shared_from_this()] { self->deliver(); });
    return absl::OkStatus();
  }

  void end() { serving_.store(false, std::memory_order_release); }
  std::uint64_t load() const { return load_.load(std::memory_order_relaxed); }
  void report(std::uint64_t load) { load_.store(load, std::memory_order_relaxed); }

 private:
  void deliver() {
    std::vector<StartRequest> batch;
    {
      MutexLock lock(mutex_);
      batch.swap(queued_);
    }
    if (serving_.load(std::memory_order_acquire)) starts_(std::move(batch));
  }

  asio::strand<asio::any_io_executor> strand_;
  StartQueue::StartsHandler starts_;
  const std::size_t max_queued_;
  std::atomic<bool> serving_{true};
  std::atomic<std::uint64_t> load_{0};
  Mutex mutex_;
  std::vector<StartRequest> queued_ FAASKIT_GUARDED_BY(mutex_);
};

struct Lanes {
  Mutex mutex;
  std::map<HostId, std::shared_ptr<Lane>> by_host FAASKIT_GUARDED_BY(mutex);

  std::shared_ptr<Lane> find(HostId host) {
    MutexLock lock(mutex);
    auto known = by_host.find(host);
    return known == by_host.end() ? nullptr : known->second;
  }
};

class LaneWatch final : public Watch {
 public:
  LaneWatch(std::weak_ptr<Lanes> lanes, HostId host, std::shared_ptr<Lane> lane)
      : lanes_(std::move(lanes)), host_(host), lane_(std::move(lane)) {}
  ~LaneWatch() override {
    lane_->end();
    if (auto lanes = lanes_.lock()) {
      MutexLock lock(lanes->mutex);
      auto known = lanes->by_host.find(host_);
      if (known != lanes->by_host.end() && known->second == lane_) lanes->by_host.erase(known);
    }
  }

 private:
  std::weak_ptr<Lanes> lanes_;
  HostId host_;
  std::shared_ptr<Lane> lane_;
};

class MemoryStartQueue final : public StartQueue {
 public:
  MemoryStartQueue(asio::any_io_executor executor, StartQueueOptions options)
      : executor_(std::move(executor)), options_(options) {}

  executor_type get_executor() const override { return executor_; }

  std::unique_ptr<Watch> serve(HostId host, asio::any_io_executor executor, StartsHandler starts) override {
    auto lane = std::make_shared<Lane>(std::move(executor), std::move(starts), options_.max_queued);
    {
      MutexLock lock(lanes_->mutex);
      lanes_->by_host[host] = lane;
    }
    return std::make_unique<LaneWatch>(lanes_, host, std::move(lane));
  }
  std::uint64_t load(HostId host) const override {
    auto lane = lanes_->find(host);
    return lane ? lane->load() : 0;
  }
  void report_load(HostId host, std::uint64_t load) override {
    if (auto lane = lanes_->find(host)) lane->report(load);
  }

 private:
  void do_push(PushParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    auto lane = lanes_->find(params.host);
    complete(home, std::move(done),
             lane ? lane->push(params.host, std::move(params.start))
                  : absl::NotFoundError(absl::StrFormat("push %s: nobody serves host %x", to_string(params.start.id),
                                                        params.host)));
  }

  const asio::any_io_executor executor_;
  const StartQueueOptions options_;
  const std::shared_ptr<Lanes> lanes_ = std::make_shared<Lanes>();
};

class FixedSlots final : public SlotDirectory {
 public:
  explicit FixedSlots(const std::vector<HostId>& hosts) {
    auto map = std::make_shared<SlotMap>();
    map->epoch = 1;
    for (std::size_t slot = 0; slot < kSlotCount; ++slot) map->owner[slot] = hosts[slot * hosts.size() / kSlotCount];
    map_ = std::move(map);
  }
  std::shared_ptr<const SlotMap> snapshot() const override { return map_; }

 private:
  std::shared_ptr<const SlotMap> map_;
};

}  // namespace

std::unique_ptr<StartQueue> make_start_queue(asio::any_io_executor executor, StartQueueOptions options) {
  return std::make_unique<MemoryStartQueue>(std::move(executor), options);
}

absl::StatusOr<std::unique_ptr<SlotDirectory>> make_slot_directory(std::vector<HostId> hosts) {
  if (hosts.empty()) return absl::InvalidArgumentError("make_slot_directory: no hosts; at least one");
  for (const HostId host : hosts) {
    if (host == 0) return absl::InvalidArgumentError("make_slot_directory: host id 0 means 'nobody'");
  }
  return std::make_unique<FixedSlots>(hosts);
}

}  // namespace faaskit::memory
