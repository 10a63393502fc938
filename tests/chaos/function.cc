// The function that chaos calls. A call is "ID WORK_US ANYTHING". Before it does anything else it reports
// "ID ATTEMPT STAMP" on a datagram socket of the driver, which outlives it: what was reported has begun.
// It answers "ID STAMP CRC32", the sum over all of the payload.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>

#include "faaskit/worker/worker.h"

namespace {

std::uint32_t crc32(std::string_view text) {
  std::uint32_t sum = ~0u;
  for (const char c : text) {
    sum ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ (0xedb88320u & (0u - (sum & 1)));
  }
  return ~sum;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : value;
}

// '@' stands for the abstract namespace, which belongs to the network.
int connect_to_driver(const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (name.empty() || name.size() >= sizeof address.sun_path) return -1;
  std::memcpy(address.sun_path, name.data(), name.size());
  if (name[0] == '@') address.sun_path[0] = '\0';
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || ::connect(fd, reinterpret_cast<const sockaddr*>(&address), size) != 0) return -1;
  return fd;
}

void pass(std::chrono::microseconds time) {
  if (time.count() > 0) std::this_thread::sleep_for(time);
}

}  // namespace

int main() {
  const std::string stamp = environment("CHAOS_STAMP");
  int driver = -1;
  faaskit::worker::Options options;
  options.init = [&driver] {
    driver = connect_to_driver(environment("CHAOS_SOCKET"));
    if (driver < 0) throw std::runtime_error(std::string("the driver's socket: ") + std::strerror(errno));
    pass(std::chrono::milliseconds(std::atoi(environment("CHAOS_INIT_MS").c_str())));
  };
  return faaskit::worker::run(
      [&](const faaskit::worker::Request& request) {
        const std::string_view text = request.text();
        char* end = nullptr;
        const std::string head(text.substr(0, 64));
        const unsigned long long id = std::strtoull(head.c_str(), &end, 10);
        const unsigned long work = std::strtoul(end, nullptr, 10);
        const std::string report = std::to_string(id) + ' ' + std::to_string(request.attempt) + ' ' + stamp;
        if (::send(driver, report.data(), report.size(), 0) < 0) throw std::runtime_error("report lost");
        pass(std::chrono::microseconds(work));
        char answer[96];
        std::snprintf(answer, sizeof answer, "%llu %s %08x", id, stamp.c_str(), crc32(text));
        if (id % 16 == 0) std::puts(answer);
        return faaskit::worker::Response{.payload = answer, .content_type = "text/plain"};
      },
      std::move(options));
}
