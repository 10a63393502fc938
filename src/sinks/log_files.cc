#include "sinks/log_files.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "faaskit/sinks/records.h"
#include "sinks/drain.h"
#include "sinks/log_reader.h"
#include "sinks/log_text.h"
#include "sinks/text.h"
#include "support/mutex.h"

namespace faaskit::sinks {
namespace {

using Time = std::chrono::system_clock::time_point;

// What a record costs beyond its bytes.
constexpr std::size_t kOverhead = 256;

struct Item {
  LogRecord record{};  // without a function: only so that losses are said
  Time arrived{};
};

// What the sink and its consumer share; lives as long as either.
class Books {
 public:
  Books(std::shared_ptr<Disk> disk, std::size_t function_bytes)
      : disk_(std::move(disk)), function_bytes_(function_bytes) {}

  // Whether the function may have so many more bytes in the queue.
  bool admit(const std::string& function, std::size_t bytes) FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    const auto account = accounts_.find(function);
    if (bytes > function_bytes_ - (account == accounts_.end() ? 0 : account->second.queued)) return false;
    accounts_[function].queued += bytes;
    return true;
  }
  void leave(const std::string& function, std::size_t bytes) FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    const auto account = accounts_.find(function);
    account->second.queued -= bytes;
    if (account->second.queued == 0 && account->second.lost == 0) accounts_.erase(account);
  }
  // `lost_before`: by somebody else, whose word of it goes with this record.
  void lose(const std::string& function, std::uint64_t bytes, std::uint64_t lost_before)
      FAASKIT_EXCLUDES(mutex_) {
    lost_bytes_ += bytes;
    MutexLock lock(mutex_);
    accounts_[function].lost += bytes + lost_before;
  }
  void lose_nameless(std::uint64_t bytes) { lost_bytes_ += bytes; }
  // True once, until the consumer comes by.
  bool ask_to_say() { return !asked_.exchange(true); }
  bool anything_to_say() const FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    for (const auto& [function, account] : accounts_)
      if (account.lost > 0) return true;
    return false;
  }

  // -- The consumer's part, one call at a time.

  void write(Drain<Item>::Batch& batch) FAASKIT_EXCLUDES(mutex_) {
    asked_ = false;
    for (auto& entry : batch) {
      const LogRecord& record = entry.item.record;
      if (record.function.empty()) continue;
      const absl::Status status =
          disk_->append(log_file_name(record.function), log_lines(record, entry.item.arrived));
      if (status.ok()) {
        written_bytes_ += record.bytes.size();
      } else {
        fail(status);
        lose(record.function, record.bytes.size(), record.lost_bytes);
      }
      leave(record.function, entry.bytes);
    }
    say_losses();
  }

  LogFileStats stats(std::size_t queued) const FAASKIT_EXCLUDES(mutex_) {
    LogFileStats stats;
    stats.written_bytes = written_bytes_;
    stats.lost_bytes = lost_bytes_;
    stats.write_errors = write_errors_;
    stats.queued_bytes = queued;
    MutexLock lock(mutex_);
    stats.last_error = last_error_;
    return stats;
  }

 private:
  struct Account {
    std::size_t queued = 0;
    std::uint64_t lost = 0;  // and not said yet
  };

  void fail(const absl::Status& status) FAASKIT_EXCLUDES(mutex_) {
    ++write_errors_;
    MutexLock lock(mutex_);
    last_error_ = std::string(status.message());
  }

  void say_losses() FAASKIT_EXCLUDES(mutex_) {
    std::map<std::string, std::uint64_t> losses;
    {
      MutexLock lock(mutex_);
      for (const auto& [function, account] : accounts_)
        if (account.lost > 0) losses.emplace(function, account.lost);
    }
    for (const auto& [function, bytes] : losses) {
      const absl::Status status =
          disk_->append(log_file_name(function), loss_line(bytes, std::chrono::system_clock::now()));
      if (!status.ok()) return fail(status);  // it stays unsaid until the next batch
      MutexLock lock(mutex_);
      const auto account = accounts_.find(function);
      account->second.lost -= bytes;
      if (account->second.queued == 0 && account->second.lost == 0) accounts_.erase(account);
    }
  }

  const std::shared_ptr<Disk> disk_;
  const std::size_t function_bytes_;
  std::atomic<std::uint64_t> written_bytes_{0};
  std::atomic<std::uint64_t> lost_bytes_{0};
  std::atomic<std::uint64_t> write_errors_{0};
  std::atomic<bool> asked_{false};
  mutable Mutex mutex_;
  // Of functions with something queued or unsaid.
  std::map<std::string, Account> accounts_ FAASKIT_GUARDED_BY(mutex_);
  std::string last_error_ FAASKIT_GUARDED_BY(mutex_);
};

class Sink final : public LogFileSink {
 public:
  Sink(LogFileOptions options, UniqueFd folder, std::shared_ptr<Disk> disk)
      : max_files_(options.max_files),
        folder_(std::move(folder)),
        disk_(disk),
        books_(std::make_shared<Books>(std::move(disk), options.queue_bytes / 4)),
        drain_(std::make_shared<Drain<Item>>(
            std::move(options.blocking), options.queue_bytes,
            [books = books_](Drain<Item>::Batch& batch) { books->write(batch); })) {}
  ~Sink() override { drain_->close(); }

  void write(LogRecord record) override {
    const std::size_t kept = record.bytes.size();
    // The name of a file: it is the host's, and was checked, but this is the last place to look.
    if (!validate_function_name(record.function).ok()) return books_->lose_nameless(kept);
    const std::uint64_t lost_before = record.lost_bytes;
    if (kept == 0 && lost_before == 0) return;
    const std::size_t bytes = kept + kOverhead;
    const std::string function = record.function;
    if (books_->admit(function, bytes)) {
      if (drain_->push({std::move(record), std::chrono::system_clock::now()}, bytes)) return;
      books_->leave(function, bytes);
    }
    books_->lose(function, kept, lost_before);
    if (books_->ask_to_say()) drain_->push({}, 0);
  }

  LogFileStats stats() const override { return books_->stats(drain_->queued_bytes()); }

  absl::StatusOr<LogPage> read(const LogQuery& query) const override {
    return read_log(folder_.get(), max_files_, query);
  }

  absl::Status remove(std::string_view function) override {
    if (absl::Status status = validate_function_name(function); !status.ok()) return status;
    return disk_->remove(log_file_name(function));
  }

  absl::Status flush(std::chrono::milliseconds within) override {
    if (books_->anything_to_say() && books_->ask_to_say()) drain_->push({}, 0);
    if (drain_->wait(within)) return absl::OkStatus();
    return absl::DeadlineExceededError(
        absl::StrFormat("logs: %d bytes still queued after %d ms", drain_->queued_bytes(), within.count()));
  }

  absl::Status close(std::chrono::milliseconds within) override {
    if (books_->anything_to_say() && books_->ask_to_say()) drain_->push({}, 0);
    drain_->close();
    return flush(within);
  }

 private:
  const std::size_t max_files_;
  const UniqueFd folder_;
  const std::shared_ptr<Disk> disk_;
  const std::shared_ptr<Books> books_;
  const std::shared_ptr<Drain<Item>> drain_;
};

DiskLimits limits_of(const LogFileOptions& options) {
  return {.max_file_bytes = options.max_file_bytes,
          .max_files = options.max_files,
          .max_open = options.max_open_files};
}

absl::Status validate(const LogFileOptions& options) {
  if (options.folder.empty()) return absl::InvalidArgumentError("folder: empty");
  if (!options.blocking) return absl::InvalidArgumentError("blocking: no executor");
  if (options.queue_bytes < (256 << 10))
    return absl::InvalidArgumentError(
        absl::StrFormat("queue_bytes: %d; at least %d are needed", options.queue_bytes, (256 << 10)));
  return sinks::validate(limits_of(options));
}

}  // namespace

std::string log_file_name(std::string_view function) { return absl::StrCat(std::string(function), ".log"); }

std::string log_lines(const LogRecord& record, Time arrived) {
  const std::string prefix =
      absl::StrCat(format_time(arrived), " ", record.sandbox == SandboxId{} ? "-" : to_string(record.sandbox),
                   " ", record.request == RequestId{} ? "-" : to_string(record.request), " ");
  std::string text;
  std::string_view rest = record.bytes;
  while (!rest.empty()) {
    const std::size_t newline = rest.find('\n');
    std::size_t length = std::min(newline, rest.size());
    const bool cut = length > kMaxLineBytes;
    if (cut) {
      length = kMaxLineBytes;
      // Not within a character, if that can be helped.
      for (int back = 0; back < 3 && (static_cast<unsigned char>(rest[length]) & 0xc0) == 0x80; ++back)
        --length;
    }
    const bool ended = !cut && newline != std::string_view::npos;
    text += prefix;
    text += ended ? "| " : "+ ";
    append_escaped(text, rest.substr(0, length));
    text.push_back('\n');
    rest.remove_prefix(length + (ended ? 1 : 0));
  }
  if (record.lost_bytes > 0)
    absl::StrAppend(&text, prefix, "! [", record.lost_bytes,
                    record.bound == LogBound::invocation
                        ? " bytes lost: more than one invocation may write]\n"
                        : " bytes lost: more than a sandbox may write in a second]\n");
  return text;
}

std::string loss_line(std::uint64_t bytes, Time now) {
  return absl::StrCat(format_time(now), " - - ! [", bytes, " bytes lost: the disk failed or was too slow]\n");
}

absl::StatusOr<std::unique_ptr<LogFileSink>> make_log_file_sink(LogFileOptions options,
                                                                std::shared_ptr<Disk> disk) {
  if (absl::Status status = validate(options); !status.ok()) return status;
  absl::StatusOr<UniqueFd> folder = open_folder(options.folder, true);
  if (!folder.ok()) return folder.status();
  return std::make_unique<Sink>(std::move(options), *std::move(folder), std::move(disk));
}

absl::StatusOr<std::unique_ptr<LogFileSink>> make_log_file_sink(LogFileOptions options) {
  if (absl::Status status = validate(options); !status.ok()) return status;
  absl::StatusOr<UniqueFd> folder = open_folder(options.folder, true);
  if (!folder.ok()) return folder.status();
  std::shared_ptr<Disk> disk = make_disk(*std::move(folder), limits_of(options));
  return make_log_file_sink(std::move(options), std::move(disk));
}

}  // namespace faaskit::sinks
