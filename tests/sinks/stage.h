// Folders, records, and a disk that blocks or fails when told to.
#pragma once

#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include <boost/asio/thread_pool.hpp>

#include "catch.hpp"
#include "faaskit/port/log_sink.h"
#include "faaskit/port/record_sink.h"
#include "sinks/disk.h"
#include "temporary_folder.h"

namespace faaskit::sinks {

using namespace std::chrono_literals;

using Folder = TemporaryFolder;

inline std::string text_of(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream out;
  out << file.rdbuf();
  return out.str();
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

inline LogRecord log(const std::string& function, std::uint64_t request, const std::string& bytes) {
  LogRecord record;
  record.function = function;
  record.sandbox = {0x1f, 3};
  if (request != 0) record.request = {0x2a, request};
  record.bytes = bytes;
  return record;
}

inline ExecutionRecord execution(const std::string& function, std::uint64_t sequence = 1) {
  ExecutionRecord record;
  record.request = {0x2a, sequence};
  record.function = function;
  record.version = 3;
  record.sandbox = {0x1f, 3};
  record.arrived = std::chrono::system_clock::time_point(1'767'323'045'678ms);  // 2026-01-02T03:04:05.678Z
  record.total = 1'234'567ns;
  return record;
}

// Keeps what is written. Blocks, or fails, while it is told to.
class FakeDisk final : public Disk {
 public:
  absl::Status append(const std::string& name, std::string_view lines) override {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !blocked_; });
    --waiting_;
    if (failing_) return absl::ResourceExhaustedError("injected: the disk is full");
    files_[name] += lines;
    return absl::OkStatus();
  }
  absl::Status remove(const std::string&) override { return absl::OkStatus(); }

  void block(bool blocked) {
    std::lock_guard lock(mutex_);
    blocked_ = blocked;
    changed_.notify_all();
  }
  void fail(bool failing) {
    std::lock_guard lock(mutex_);
    failing_ = failing;
  }
  // Somebody is stuck in append().
  bool wait_until_stuck() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 20s, [&] { return blocked_ && waiting_ > 0; });
  }
  std::string text(const std::string& name) {
    std::lock_guard lock(mutex_);
    return files_[name];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool blocked_ = false;
  bool failing_ = false;
  int waiting_ = 0;
  std::map<std::string, std::string> files_;
};

// Unblocks the disk before the threads behind it are joined, also when a check fails.
struct Unblock {
  explicit Unblock(std::shared_ptr<FakeDisk> which) : disk(std::move(which)) {}
  ~Unblock() { disk->block(false); }
  std::shared_ptr<FakeDisk> disk;
};

}  // namespace faaskit::sinks
