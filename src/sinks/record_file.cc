#include "sinks/record_file.h"

#include <atomic>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "sinks/drain.h"
#include "support/mutex.h"

namespace faaskit::sinks {
namespace {

struct Item {
  ExecutionRecord record{};
  bool empty = false;  // only so that losses are said
};

// What the sink and its consumer share; lives as long as either.
class Books {
 public:
  Books(std::shared_ptr<Disk> disk, std::string name) : disk_(std::move(disk)), name_(std::move(name)) {}

  void lose(std::uint64_t count) {
    lost_ += count;
    unsaid_ += count;
  }
  bool anything_to_say() const { return unsaid_ > 0; }
  // True once, until the consumer comes by.
  bool ask_to_say() { return !asked_.exchange(true); }

  // The consumer's, one call at a time.
  void write(Drain<Item>::Batch& batch) FAASKIT_EXCLUDES(mutex_) {
    asked_ = false;
    std::string lines;
    std::uint64_t count = 0;
    const auto append = [&] {
      if (lines.empty()) return;
      if (const absl::Status status = disk_->append(name_, lines); status.ok()) {
        written_ += count;
      } else {
        fail(status);
        lose(count);
      }
      lines.clear();
      count = 0;
    };
    for (const auto& entry : batch) {
      if (entry.item.empty) continue;
      lines += to_json(entry.item.record);
      lines.push_back('\n');
      ++count;
      // Few writes, but a file is to be rotated near its bound.
      if (lines.size() >= kWriteBytes) append();
    }
    append();
    if (const std::uint64_t unsaid = unsaid_; unsaid > 0) {
      const absl::Status status = disk_->append(name_, absl::StrCat("{\"lost_records\":", unsaid, "}\n"));
      if (!status.ok()) return fail(status);
      unsaid_ -= unsaid;
    }
  }

  RecordFileStats stats() const FAASKIT_EXCLUDES(mutex_) {
    RecordFileStats stats{
        .written = written_, .lost = lost_, .write_errors = write_errors_, .last_error = {}};
    MutexLock lock(mutex_);
    stats.last_error = last_error_;
    return stats;
  }

 private:
  static constexpr std::size_t kWriteBytes = 16 << 10;

  void fail(const absl::Status& status) FAASKIT_EXCLUDES(mutex_) {
    ++write_errors_;
    MutexLock lock(mutex_);
    last_error_ = std::string(status.message());
  }

  const std::shared_ptr<Disk> disk_;
  const std::string name_;
  std::atomic<std::uint64_t> written_{0};
  std::atomic<std::uint64_t> lost_{0};
  std::atomic<std::uint64_t> unsaid_{0};
  std::atomic<std::uint64_t> write_errors_{0};
  std::atomic<bool> asked_{false};
  mutable Mutex mutex_;
  std::string last_error_ FAASKIT_GUARDED_BY(mutex_);
};

class Sink final : public RecordFileSink {
 public:
  Sink(RecordFileOptions options, std::string name, std::shared_ptr<Disk> disk)
      : books_(std::make_shared<Books>(std::move(disk), std::move(name))),
        drain_(std::make_shared<Drain<Item>>(
            std::move(options.blocking), options.queue_bytes,
            [books = books_](Drain<Item>::Batch& batch) { books->write(batch); })) {}
  ~Sink() override { drain_->close(); }

  void write(const ExecutionRecord& record) override {
    const std::size_t bytes = sizeof(Item) + record.function.size() + record.tenant.size() +
                              record.trace.size() + record.status.message().size();
    if (drain_->push({record, false}, bytes)) return;
    books_->lose(1);
    say();
  }

  RecordFileStats stats() const override { return books_->stats(); }

  absl::Status flush(std::chrono::milliseconds within) override {
    if (books_->anything_to_say()) say();
    if (drain_->wait(within)) return absl::OkStatus();
    return absl::DeadlineExceededError(absl::StrFormat("records: %d bytes still queued after %d ms",
                                                       drain_->queued_bytes(), within.count()));
  }

  absl::Status close(std::chrono::milliseconds within) override {
    if (books_->anything_to_say()) say();
    drain_->close();
    return flush(within);
  }

 private:
  void say() {
    if (books_->ask_to_say()) drain_->push({{}, true}, 0);
  }

  const std::shared_ptr<Books> books_;
  const std::shared_ptr<Drain<Item>> drain_;
};

struct Place {
  std::string folder{};
  std::string name{};
};

Place split(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {".", path};
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

DiskLimits limits_of(const RecordFileOptions& options) {
  return {.max_file_bytes = options.max_file_bytes, .max_files = options.max_files, .max_open = 1};
}

absl::Status validate(const RecordFileOptions& options) {
  if (split(options.path).name.empty()) return absl::InvalidArgumentError("path: empty, or a folder");
  if (!options.blocking) return absl::InvalidArgumentError("blocking: no executor");
  if (options.queue_bytes < (64 << 10))
    return absl::InvalidArgumentError(
        absl::StrFormat("queue_bytes: %d; at least %d are needed", options.queue_bytes, 64 << 10));
  return sinks::validate(limits_of(options));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RecordFileSink>> make_record_file_sink(RecordFileOptions options,
                                                                      std::shared_ptr<Disk> disk) {
  if (absl::Status status = validate(options); !status.ok()) return status;
  std::string name = split(options.path).name;
  return std::make_unique<Sink>(std::move(options), std::move(name), std::move(disk));
}

absl::StatusOr<std::unique_ptr<RecordFileSink>> make_record_file_sink(RecordFileOptions options) {
  if (absl::Status status = validate(options); !status.ok()) return status;
  absl::StatusOr<UniqueFd> folder = open_folder(split(options.path).folder, false);
  if (!folder.ok()) return folder.status();
  std::shared_ptr<Disk> disk = make_disk(*std::move(folder), limits_of(options));
  return make_record_file_sink(std::move(options), std::move(disk));
}

}  // namespace faaskit::sinks
