#include "faaskit/sinks/records.h"

#include <algorithm>
#include <utility>

#include "support/mutex.h"

namespace faaskit::sinks {
namespace {

class Ring final : public RecordRing {
 public:
  explicit Ring(std::size_t capacity) : capacity_(std::max<std::size_t>(capacity, 1)) {}

  void write(const ExecutionRecord& record) override FAASKIT_EXCLUDES(mutex_) {
    // Copied, and what it replaces freed, outside the lock.
    ExecutionRecord copy = record;
    if (copy.status.message().size() > kMaxText)
      copy.status = absl::Status(copy.status.code(), copy.status.message().substr(0, kMaxText));
    MutexLock lock(mutex_);
    if (records_.size() < capacity_) {
      records_.push_back(std::move(copy));
      return;
    }
    std::swap(records_[oldest_], copy);
    oldest_ = (oldest_ + 1) % capacity_;
    lock.unlock();
  }

  std::vector<ExecutionRecord> query(const RecordQuery& query) const override FAASKIT_EXCLUDES(mutex_) {
    std::vector<ExecutionRecord> found;
    MutexLock lock(mutex_);
    for (std::size_t i = records_.size(); i > 0 && found.size() < query.limit; --i) {
      const ExecutionRecord& record = records_[(oldest_ + i - 1) % records_.size()];
      if (matches(record, query)) found.push_back(record);
    }
    return found;
  }

 private:
  static bool matches(const ExecutionRecord& record, const RecordQuery& query) {
    return (query.function.empty() || record.function == query.function) &&
           (!query.kind || (record.sandbox.host != 0 && record.start == *query.kind)) &&
           (!query.code || record.status.code() == *query.code) &&
           (!query.since || record.arrived >= *query.since);
  }

  const std::size_t capacity_;
  mutable Mutex mutex_;
  std::vector<ExecutionRecord> records_ FAASKIT_GUARDED_BY(mutex_);  // grows to capacity_, then is a ring
  std::size_t oldest_ FAASKIT_GUARDED_BY(mutex_) = 0;
};

class Tee final : public RecordSink {
 public:
  explicit Tee(std::vector<std::shared_ptr<RecordSink>> sinks) : sinks_(std::move(sinks)) {
    std::erase(sinks_, nullptr);
  }
  void write(const ExecutionRecord& record) override {
    for (const auto& sink : sinks_) sink->write(record);
  }

 private:
  std::vector<std::shared_ptr<RecordSink>> sinks_;
};

}  // namespace

std::unique_ptr<RecordRing> make_record_ring(std::size_t capacity) {
  return std::make_unique<Ring>(capacity);
}

std::unique_ptr<RecordSink> make_tee_record_sink(std::vector<std::shared_ptr<RecordSink>> sinks) {
  return std::make_unique<Tee>(std::move(sinks));
}

}  // namespace faaskit::sinks
