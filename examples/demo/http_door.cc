// The door over HTTP: the mini-platform as a child process, and a plain client.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <mutex>
#include <optional>
#include <thread>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/src.hpp>

#include "door.h"
#include "subjects.h"

namespace demo {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace json = boost::json;
using namespace std::chrono_literals;
using faaskit::InvocationResult;
using tcp = asio::ip::tcp;

constexpr auto kPatience = 150s;
constexpr auto kStartPatience = 30s;
constexpr auto kStopPatience = 30s;

absl::Status failed(const char* what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// One keep-alive connection.
class Connection {
 public:
  explicit Connection(std::uint16_t port) : socket_(context_) {
    socket_.connect({asio::ip::make_address_v4("127.0.0.1"), port});
    socket_.set_option(tcp::no_delay(true));
    const timeval patience{.tv_sec = std::chrono::seconds(kPatience).count(), .tv_usec = 0};
    ::setsockopt(socket_.native_handle(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  http::response<http::string_body> exchange(const http::request<http::string_body>& request) {
    http::write(socket_, request);
    http::response_parser<http::string_body> parser;
    parser.body_limit(64 << 20);
    http::read(socket_, buffer_, parser);
    reusable_ = parser.get().keep_alive();
    return parser.release();
  }
  bool reusable() const { return reusable_; }

 private:
  asio::io_context context_;
  tcp::socket socket_;
  beast::flat_buffer buffer_;
  bool reusable_ = false;
};

// What a status code of the door means to the library's callers.
absl::StatusCode to_code(unsigned status) {
  switch (status) {
    case 400: return absl::StatusCode::kInvalidArgument;
    case 401: return absl::StatusCode::kUnauthenticated;
    case 403: return absl::StatusCode::kPermissionDenied;
    case 404: return absl::StatusCode::kNotFound;
    case 409: return absl::StatusCode::kAborted;
    case 413: return absl::StatusCode::kInvalidArgument;
    case 429: return absl::StatusCode::kResourceExhausted;
    case 502: return absl::StatusCode::kUnknown;
    case 503: return absl::StatusCode::kUnavailable;
    case 504: return absl::StatusCode::kDeadlineExceeded;
    default: return absl::StatusCode::kInternal;
  }
}

std::optional<faaskit::StartKind> to_start(std::string_view text) {
  for (const auto kind : {faaskit::StartKind::cold, faaskit::StartKind::warm, faaskit::StartKind::stolen,
                          faaskit::StartKind::queued})
    if (to_string(kind) == text) return kind;
  return std::nullopt;
}

std::uint64_t number(const json::object& object, const char* name) {
  const json::value* value = object.if_contains(name);
  if (value == nullptr) return 0;
  boost::system::error_code error;
  const auto found = value->to_number<std::uint64_t>(error);
  return error ? 0 : found;
}

class HttpDoor final : public Door {
 public:
  ~HttpDoor() override {
    (void)HttpDoor::stop();
    std::error_code ignored;
    if (!home_.empty()) std::filesystem::remove_all(home_, ignored);
  }

  absl::Status open(const Options& options) {
    std::string home = (std::filesystem::temp_directory_path() / "faaskit-demo-XXXXXX").string();
    if (::mkdtemp(home.data()) == nullptr) return failed("make a folder for the demo's state");
    home_ = home;
    std::filesystem::create_directory(home_ + "/functions");
    if (absl::Status started = start(options); !started.ok()) return started;
    return absl::OkStatus();
  }

  std::string machine() override {
    const absl::StatusOr<json::value> stats = get("/stats");
    std::string text = absl::StrCat("through http://127.0.0.1:", port_);
    if (!stats.ok() || !stats->is_object()) return text;
    if (const json::value* host = stats->as_object().if_contains("host"); host && host->is_object()) {
      for (const char* name : {"freezer", "limits", "isolation"}) {
        if (const json::value* value = host->as_object().if_contains(name); value && value->is_string())
          absl::StrAppend(&text, "; ", name, " ", std::string(value->as_string()));
      }
    }
    return text;
  }

  // The function's folder is copied beneath the server's, with a function.json that says what is asked for.
  absl::Status deploy(const faaskit::local::Function& function) override {
    const std::string folder = home_ + "/functions/" + function.name;
    std::error_code error;
    std::filesystem::remove_all(folder, error);
    std::filesystem::copy(function.code_path, folder, std::filesystem::copy_options::recursive, error);
    if (error)
      return absl::UnavailableError(absl::StrCat("copy ", function.code_path, ": ", error.message()));
    json::object manifest{{"runtime", function.runtime},
                          {"handler", function.handler},
                          {"timeout_ms", 120000},
                          {"minimum_isolation", "none"},
                          {"max_sandboxes", function.caps.max_sandboxes},
                          {"provisioned", function.provisioned}};
    json::object env;
    for (const auto& [name, value] : function.env) env.emplace(name, value);
    manifest.emplace("env", std::move(env));
    std::ofstream(folder + "/function.json") << json::serialize(manifest);
    return put(function.name);
  }

  absl::Status remove(const std::string& function) override {
    return admin(http::verb::delete_, "/functions/" + function, "").status();
  }

  std::future<InvocationResult> begin(const std::string& function, std::string_view payload) override {
    return std::async(std::launch::async,
                      [this, function, payload = std::string(payload)] { return invoke(function, payload); });
  }

  absl::StatusOr<faaskit::QueueStats> stats(const std::string& function) override {
    const absl::StatusOr<json::value> all = get("/stats");
    if (!all.ok()) return all.status();
    boost::system::error_code error;
    const json::value* found = all->find_pointer("/functions/" + function, error);
    if (found == nullptr || !found->is_object())
      return absl::NotFoundError(absl::StrCat("/stats knows no function ", function));
    const json::object& its = found->as_object();
    faaskit::QueueStats stats;
    stats.idle = number(its, "idle");
    stats.starts_in_flight = number(its, "starts_in_flight");
    stats.stolen = number(its, "stolen");
    stats.surplus_starts = number(its, "surplus_starts");
    stats.steals_measured = number(its, "steals_measured");
    stats.steal_saved_us = number(its, "steal_saved_us");
    return stats;
  }

  // Not the server's word: the kernel's files of each sandbox are read here.
  absl::StatusOr<std::optional<Frozen>> frozen() override {
    const absl::StatusOr<json::value> all = get("/sandboxes");
    if (!all.ok()) return all.status();
    const json::value* list = all->is_object() ? all->as_object().if_contains("sandboxes") : &*all;
    if (list == nullptr || !list->is_array()) return absl::InternalError("/sandboxes is no list");
    Frozen count;
    bool groups = false;
    for (const json::value& sandbox : list->as_array()) {
      const json::value* group = sandbox.as_object().if_contains("cgroup");
      const std::string path = group && group->is_string() ? std::string(group->as_string()) : "";
      groups = groups || !path.empty();
      ++count.idle;
      if (read_text(path + "/cgroup.events").find("frozen 1") != std::string::npos ||
          read_text(path + "/freezer.state").starts_with("FROZEN"))
        ++count.frozen;
    }
    if (count.idle > 0 && !groups) return std::nullopt;
    return count;
  }

  // The server answers what waits when it is told to stop.
  void give_up() override {
    if (server_ > 0 && !told_.exchange(true)) ::kill(server_, SIGTERM);
  }

  absl::Status stop() override {
    std::lock_guard stopping(stop_mutex_);
    if (server_ <= 0) return absl::OkStatus();
    give_up();
    const auto deadline = std::chrono::steady_clock::now() + kStopPatience;
    int status = 0;
    pid_t ended = 0;
    while ((ended = ::waitpid(server_, &status, WNOHANG)) == 0 && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(10ms);
    absl::Status result;
    if (ended == 0) {
      ::kill(server_, SIGKILL);
      ::waitpid(server_, &status, 0);
      result = absl::DeadlineExceededError("the server had to be killed");
    } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      result = absl::InternalError(absl::StrCat("the server ended with wait status ", status));
    }
    server_ = -1;
    ::close(life_);
    if (reader_.joinable()) reader_.join();
    return result;
  }

 private:
  absl::Status start(const Options& options) {
    int errors[2];
    int life[2];  // its stdin: when we are gone, however, it reads the end of it and stops
    if (::pipe2(errors, O_CLOEXEC) != 0 || ::pipe2(life, O_CLOEXEC) != 0) return failed("make a pipe");
    std::vector<std::string> words = {program_folder() + "/faaskit-mini",
                                      "--listen",
                                      "127.0.0.1:0",
                                      "--functions",
                                      home_ + "/functions",
                                      "--state-dir",
                                      home_ + "/state",
                                      "--stop-on-stdin-eof",
                                      "--start-timeout",
                                      "120000"};
    if (!options.instance.empty()) words.insert(words.end(), {"--instance", options.instance});
    if (!options.runtime_dir.empty()) words.insert(words.end(), {"--runtime-dir", options.runtime_dir});
    if (options.verbose) words.push_back("--verbose");
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, life[0], 0);
    posix_spawn_file_actions_adddup2(&actions, errors[1], 2);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    // Signals from the terminal are ours to pass on; and it shall not inherit that we block them.
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
    const int error = ::posix_spawn(&server_, words[0].c_str(), &actions, &attributes, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    ::close(life[0]);
    ::close(errors[1]);
    life_ = life[1];
    if (error != 0) {
      server_ = -1;
      ::close(errors[0]);
      errno = error;
      return failed("start faaskit-mini");
    }
    std::promise<absl::StatusOr<std::uint16_t>> ready;
    std::future<absl::StatusOr<std::uint16_t>> port = ready.get_future();
    reader_ =
        std::thread([fd = errors[0], ready = std::move(ready)]() mutable { relay(fd, std::move(ready)); });
    if (port.wait_for(kStartPatience) != std::future_status::ready)
      return absl::DeadlineExceededError("faaskit-mini does not say that it listens");
    const absl::StatusOr<std::uint16_t> found = port.get();
    if (!found.ok()) return found.status();
    port_ = *found;
    token_ = read_text(home_ + "/state/admin-token");
    while (!token_.empty() && token_.back() == '\n') token_.pop_back();
    return absl::OkStatus();
  }

  // What the server says goes to our stderr; the line with its address is for us.
  static void relay(int fd, std::promise<absl::StatusOr<std::uint16_t>> ready) {
    bool told = false;
    std::string text;
    char piece[4096];
    ssize_t got = 0;
    while ((got = ::read(fd, piece, sizeof piece)) > 0) {
      text.append(piece, static_cast<std::size_t>(got));
      for (std::size_t end; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) {
        const std::string line = text.substr(0, end);
        constexpr std::string_view kSign = "listening on http://127.0.0.1:";
        if (const std::size_t at = line.find(kSign); at != std::string::npos && !told) {
          told = true;
          ready.set_value(static_cast<std::uint16_t>(std::atoi(line.c_str() + at + kSign.size())));
        } else {
          std::cerr << line + "\n";
        }
      }
    }
    ::close(fd);
    if (!told) ready.set_value(absl::UnavailableError("faaskit-mini ended before it listened"));
  }

  absl::Status put(const std::string& name) {
    return admin(http::verb::put, "/functions/" + name, json::serialize(json::object{{"path", name}}))
        .status();
  }

  absl::StatusOr<json::value> get(const std::string& target) {
    const absl::StatusOr<std::string> body = admin(http::verb::get, target, "");
    if (!body.ok()) return body.status();
    boost::system::error_code error;
    json::value value = json::parse(*body, error);
    if (error) return absl::InternalError(absl::StrCat(target, " is not JSON: ", error.message()));
    return value;
  }

  absl::StatusOr<std::string> admin(http::verb verb, const std::string& target, const std::string& body) {
    http::request<http::string_body> request(verb, target, 11);
    request.set(http::field::authorization, "Bearer " + token_);
    if (!body.empty()) request.set(http::field::content_type, "application/json");
    request.body() = body;
    const absl::StatusOr<http::response<http::string_body>> response = exchange(std::move(request));
    if (!response.ok()) return response.status();
    if (response->result_int() >= 300)
      return absl::Status(to_code(response->result_int()),
                          absl::StrCat(target, ": ", response->result_int(), " ", response->body()));
    return response->body();
  }

  InvocationResult invoke(const std::string& function, const std::string& payload) {
    http::request<http::string_body> request(http::verb::post, "/functions/" + function + "/invocations", 11);
    request.set(http::field::content_type, "application/octet-stream");
    request.body() = payload;
    InvocationResult result;
    const auto begun = std::chrono::steady_clock::now();
    const absl::StatusOr<http::response<http::string_body>> response = exchange(std::move(request));
    result.total = std::chrono::steady_clock::now() - begun;
    if (!response.ok()) {
      result.status = response.status();
      return result;
    }
    std::uint64_t wait_us = 0;
    const auto header = [&](const char* name) {
      const auto found = (*response)[name];
      return std::string(found.data(), found.size());
    };
    if (const auto start = to_start(header("X-Faaskit-Start"))) {
      result.start = *start;
    } else if (response->result_int() == 200) {
      result.status = absl::InternalError("no X-Faaskit-Start in an answer");
      return result;
    }
    if (absl::SimpleAtoi(header("X-Faaskit-Wait-Us"), &wait_us))
      result.wait = std::chrono::microseconds(wait_us);
    if (response->result_int() != 200) {
      result.status = absl::Status(to_code(response->result_int()),
                                   absl::StrCat(response->result_int(), " ", response->body()));
      return result;
    }
    const auto bytes = std::as_bytes(std::span(response->body()));
    result.payload.assign(bytes.begin(), bytes.end());
    return result;
  }

  absl::StatusOr<http::response<http::string_body>> exchange(http::request<http::string_body> request) {
    request.set(http::field::host, absl::StrCat("127.0.0.1:", port_));
    request.prepare_payload();
    std::unique_ptr<Connection> connection;
    {
      std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        connection = std::move(idle_.back());
        idle_.pop_back();
      }
    }
    try {
      if (!connection) connection = std::make_unique<Connection>(port_);
      http::response<http::string_body> response = connection->exchange(request);
      if (connection->reusable()) {
        std::lock_guard lock(mutex_);
        idle_.push_back(std::move(connection));
      }
      return response;
    } catch (const std::exception& error) {
      return absl::UnavailableError(absl::StrCat("http://127.0.0.1:", port_, ": ", error.what()));
    }
  }

  std::string home_;
  pid_t server_ = -1;
  int life_ = -1;
  std::atomic<bool> told_{false};
  std::mutex stop_mutex_;
  std::thread reader_;
  std::uint16_t port_ = 0;
  std::string token_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Connection>> idle_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Door>> open_http(const Options& options) {
  auto door = std::make_unique<HttpDoor>();
  if (absl::Status opened = door->open(options); !opened.ok()) return opened;
  return door;
}

}  // namespace demo
