// The server under test: a process of ours, looked at from outside.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "http.h"

namespace chaos {

std::string read_file(const std::string& path);

// What the kernel says of a process; `started` tells it from a later one of the same number.
struct Process {
  pid_t pid = 0;
  pid_t parent = 0;
  std::uint64_t started = 0;
  char state = '?';
};
std::optional<Process> look_at(pid_t pid);

struct SandboxSeen {
  std::string id, function, state;
  pid_t pid = 0;
};

struct ServerOptions {
  std::string binary{}, scratch{}, state_dir{}, functions_dir{}, freezer = "automatic";
  int shards = 2;
  std::uint64_t descriptors = 1024;
};

class Server {
 public:
  // Throws std::runtime_error when it does not start: says why.
  explicit Server(ServerOptions options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  pid_t pid() const { return pid_; }
  std::uint16_t port() const { return port_; }
  const std::string& token() const { return token_; }
  bool alive() const;
  // Its exit status, or what ended it.
  std::string stop();
  std::string said() const { return read_file(options_.scratch + "/server.log"); }

  // The server's own view of its sandboxes; nothing if it does not answer within a second.
  std::optional<std::vector<SandboxSeen>> sandboxes();
  // Every process in a group of this instance, spares too.
  std::vector<pid_t> members() const;
  // For a process that descends from the server and is in a group of its instance, and for no other.
  bool send(pid_t pid, int signal) const;
  bool kill(pid_t pid) const;

  std::uint64_t resident_kib() const;
  std::size_t descriptors() const;
  // The highest number of a descriptor that it may have; restored with `descriptors` of the options.
  void limit_descriptors(std::uint64_t number) const;
  // Groups, mounts, processes and files that are left of it.
  std::vector<std::string> leftovers() const;

 private:
  const ServerOptions options_;
  const std::string instance_;
  std::set<std::string> group_roots_;
  pid_t pid_ = -1;
  std::uint64_t started_ = 0;
  int leash_ = -1;  // its stdin: it ends when we do
  std::uint16_t port_ = 0;
  std::string token_;
  std::optional<Connection> admin_;
};

}  // namespace chaos
