#include "catch.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "faaskit/core/slots.h"

using namespace faaskit;

namespace {

// A real server, alone on a socket in a folder of its own; killed and swept at the end.
class RedisServer {
 public:
  RedisServer() {
    char folder[] = "/tmp/faaskit-slots-XXXXXX";
    int log[2];
    if (mkdtemp(folder) == nullptr || ::pipe2(log, O_CLOEXEC) != 0) return;
    folder_ = folder;
    log_ = log[0];
    const std::string config = folder_ + "/redis.conf";
    std::ofstream(config) << "port 0\nbind 127.0.0.1\ncluster-enabled yes\ncluster-port " << free_port()
                          << "\nsave \"\"\nappendonly no\ndaemonize no\ndir " << folder_ << "\nunixsocket "
                          << path() << "\n";
    std::string program = "redis-server";
    std::string argument = config;
    char* argv[] = {program.data(), argument.data(), nullptr};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, log[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, log[1], STDERR_FILENO);
    if (posix_spawnp(&pid_, "redis-server", &actions, nullptr, argv, environ) != 0) pid_ = -1;
    posix_spawn_file_actions_destroy(&actions);
    ::close(log[1]);
  }
  ~RedisServer() {
    if (socket_ >= 0) ::close(socket_);
    if (log_ >= 0) ::close(log_);
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    if (folder_.empty()) return;
    for (const char* name : {"/redis.conf", "/s", "/nodes.conf"}) ::unlink((folder_ + name).c_str());
    ::rmdir(folder_.c_str());
  }
  // Waits for its word that it accepts, at most ten seconds; why not, if it has ended.
  std::string connect() {
    if (pid_ <= 0) return "redis-server: not found";
    std::string said;
    while (said.find("eady to accept connections") == std::string::npos) {
      pollfd ready{.fd = log_, .events = POLLIN, .revents = 0};
      char buffer[4096];
      if (::poll(&ready, 1, 10'000) <= 0) return "redis-server: not ready after 10 s: " + said;
      const ssize_t n = ::read(log_, buffer, sizeof(buffer));
      if (n <= 0) return "redis-server ended: " + said;
      said.append(buffer, static_cast<std::size_t>(n));
    }
    socket_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof(address.sun_path), "%s", path().c_str());
    if (::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
      return "connect failed";
    return "";
  }
  // CLUSTER KEYSLOT of each, in one pipeline.
  std::vector<int> slots(const std::vector<std::string>& keys) {
    std::string commands;
    for (const std::string& key : keys) {
      commands +=
          "*3\r\n$7\r\nCLUSTER\r\n$7\r\nKEYSLOT\r\n$" + std::to_string(key.size()) + "\r\n" + key + "\r\n";
    }
    std::size_t sent = 0;
    std::string replies;
    std::vector<int> slots;
    while (slots.size() < keys.size()) {
      pollfd ready{.fd = socket_,
                   .events = static_cast<short>(POLLIN | (sent < commands.size() ? POLLOUT : 0)),
                   .revents = 0};
      if (::poll(&ready, 1, 10'000) <= 0) return {};
      if ((ready.revents & POLLOUT) != 0) {
        const ssize_t n =
            ::send(socket_, commands.data() + sent, commands.size() - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) sent += static_cast<std::size_t>(n);
      }
      if ((ready.revents & (POLLIN | POLLHUP)) == 0) continue;
      char buffer[4096];
      const ssize_t n = ::recv(socket_, buffer, sizeof(buffer), MSG_DONTWAIT);
      if (n == 0) return {};
      if (n > 0) replies.append(buffer, static_cast<std::size_t>(n));
      for (std::size_t end; (end = replies.find("\r\n")) != std::string::npos; replies.erase(0, end + 2)) {
        if (replies[0] != ':') return {};
        slots.push_back(std::stoi(replies.substr(1, end - 1)));
      }
    }
    return slots;
  }

 private:
  std::string path() const { return folder_ + "/s"; }
  // A cluster node insists on a bus port, though nobody will come.
  static int free_port() {
    const int probe = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    ::bind(probe, reinterpret_cast<sockaddr*>(&address), size);
    ::getsockname(probe, reinterpret_cast<sockaddr*>(&address), &size);
    ::close(probe);
    return ntohs(address.sin_port);
  }
  std::string folder_;
  pid_t pid_ = -1;
  int log_ = -1;
  int socket_ = -1;
};

std::string random_name(std::mt19937_64& random) {
  static constexpr std::string_view kFirst = "abcdefghijklmnopqrstuvwxyz0123456789";
  static constexpr std::string_view kRest = "abcdefghijklmnopqrstuvwxyz0123456789_-";
  std::string name(1 + random() % 63, 'a');
  for (std::size_t i = 0; i < name.size(); ++i) {
    const std::string_view from = i == 0 ? kFirst : kRest;
    name[i] = from[random() % from.size()];
  }
  return name;
}

}  // namespace

// A slot that differs from Redis's would send a function's keys to the wrong node.
TEST_CASE("crc16 and slots are those of the Redis Cluster specification", "[core]") {
  CHECK(crc16("123456789") == 0x31C3);
  CHECK(crc16("") == 0);
  CHECK(slot_of("123456789") == 0x31C3);
  CHECK(slot_of("foo") == 12182);
  CHECK(slot_of("bar") == 5061);
  CHECK(slot_of("hello") == 866);
}

TEST_CASE("both candidates are slots of plain keys, and hash tags are not looked for", "[core]") {
  const CandidateSlots slots = candidate_slots("thumbnail");
  CHECK(slots.primary == slot_of("thumbnail"));
  CHECK(slots.secondary == slot_of("thumbnail:secondary"));
  CHECK(slot_of("{foo}x") != slot_of("foo"));
  std::mt19937_64 random(1);
  for (int i = 0; i < 1000; ++i) {
    const std::string name = random_name(random);
    const CandidateSlots both = candidate_slots(name);
    CHECK(both.primary < kSlotCount);
    CHECK(both.secondary == slot_of(name + ":secondary"));
  }
}

TEST_CASE("slots of 1000 names equal CLUSTER KEYSLOT of a real Redis", "[core]") {
  std::mt19937_64 random(20260701);
  std::vector<std::string> names;
  for (int i = 0; i < 500; ++i) {
    names.push_back(random_name(random));
    names.push_back(names.back() + ":secondary");
  }
  std::vector<int> theirs;
  std::string why_not;
  {
    RedisServer redis;
    why_not = redis.connect();
    if (why_not.empty()) theirs = redis.slots(names);
  }
  if (!why_not.empty()) FAASKIT_SKIP(why_not);
  REQUIRE(theirs.size() == names.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    INFO(names[i]);
    CHECK(slot_of(names[i]) == theirs[i]);
  }
}

TEST_CASE("the less loaded candidate wins, and ties fall both ways", "[core]") {
  CHECK(less_loaded(1, 2, 1) == 0);
  CHECK(less_loaded(2, 1, 0) == 1);
  CHECK(less_loaded(3, 3, 0) == 0);
  CHECK(less_loaded(3, 3, 1) == 1);
}

// Without the second choice the fullest of n owners holds about ln n / ln ln n above the mean; with it, ln ln
// n.
TEST_CASE("two choices keep the fullest owner near the mean where one choice does not", "[core]") {
  const std::uint64_t seed = GENERATE(range<std::uint64_t>(1, 11));
  INFO("seed " << seed);
  constexpr std::size_t kOwners = 64;
  constexpr int kPerOwner = 16;
  std::mt19937_64 random(seed);
  std::vector<std::uint64_t> one(kOwners);
  std::vector<std::uint64_t> two(kOwners);
  for (std::size_t i = 0; i < kOwners * kPerOwner; ++i) {
    // Owners hold the slots evenly, interleaved.
    const CandidateSlots slots = candidate_slots(random_name(random));
    const std::size_t a = slots.primary % kOwners;
    const std::size_t b = slots.secondary % kOwners;
    ++one[a];
    ++two[less_loaded(two[a], two[b], random()) == 0 ? a : b];
  }
  const std::uint64_t worst_of_one = *std::max_element(one.begin(), one.end());
  const std::uint64_t worst_of_two = *std::max_element(two.begin(), two.end());
  CAPTURE(worst_of_one, worst_of_two);
  CHECK(worst_of_two <= kPerOwner + 4);
  CHECK(worst_of_two < worst_of_one);
}
