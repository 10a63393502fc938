#include "options.h"

#include <charconv>
#include <functional>
#include <map>

#include <absl/strings/str_cat.h>

namespace mini {

const std::string_view kUsage = R"(usage: faaskit-mini [OPTION VALUE]...

  --listen ADDRESS:PORT      127.0.0.1:8080; port 0 takes any free one
  --functions DIR            folders that {"path": ...} may name; default: the examples beside the program
  --state-dir DIR            registry, code, logs, admin token; /var/lib/faaskit-mini or ~/.local/state/faaskit-mini
  --runtime-dir DIR          locks and leftovers of instances; /run/faaskit, or a folder in the state folder
  --instance NAME            names the cgroups of this platform
  --host NAME                a further name that the Host header may hold; repeat it
  --allow-origin ORIGIN      a web page of this origin may call functions; repeat it
  --open-metrics             GET /metrics needs no token
  --jwt-hs256-file FILE, --jwt-rs256-file FILE, --jwt-eddsa-file FILE
  --jwt-audience NAME        needed with a JWT key
  --jwt-issuer NAME
  --jwt-deploy               whoever has a valid JWT may deploy functions of its own
  --shards N                 threads that serve, 1
  --max-sandboxes N          512; fewer where descriptors are short
  --max-memory-mb N          of all sandboxes together, as the sum of their limits; none
  --max-functions N          on record, 100000
  --max-starts N             sandboxes being started at once; by the machine's CPUs
  --max-connections N        10000; fewer where descriptors are short
  --max-payload-bytes N      of an invocation, 6 MiB
  --max-archive-bytes N      of a deploy, 256 MiB
  --disk-budget-bytes N      of unpacked code, 4 GiB
  --grace MS                 after SIGTERM, for what runs; 10000
  --head-timeout MS          from a request's first byte to the end of its head, 10000
  --idle-timeout MS          of a connection between requests, 60000
  --start-timeout MS         from the start of a function's program until it can be called, 30000
  --freezer KIND             automatic, cgroup_v2, cgroup_v1, stop_signals, none
  --freeze POLICY            at_once, after_grace, never
  --minimum-isolation LEVEL  process; partial or none accept less than a function asks for
  --allow-host-network       functions may ask for the host's network
  --port-file FILE           written with the port once it listens
  --ready-fd N               gets a line once it listens
  --stop-on-stdin-eof        ends as on SIGTERM when stdin does: whoever started it is gone
  --verbose                  every event on stderr
  --help
)";

namespace {

// Each returns false for a value it does not understand.
using Setter = std::function<bool(const std::string&)>;

template <class Number>
Setter number(Number& into, Number least, Number most) {
  return [&into, least, most](const std::string& text) {
    Number value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
      return false;
    into = value;
    return true;
  };
}

Setter milliseconds(std::chrono::milliseconds& into) {
  return [&into](const std::string& text) {
    std::int64_t value = 0;
    if (!number<std::int64_t>(value, 0, 86'400'000)(text)) return false;
    into = std::chrono::milliseconds(value);
    return true;
  };
}

Setter text(std::string& into) {
  return [&into](const std::string& value) {
    into = value;
    return !value.empty();
  };
}

Setter list(std::vector<std::string>& into) {
  return [&into](const std::string& value) {
    into.push_back(value);
    return !value.empty();
  };
}

template <class Enum>
Setter choice(Enum& into, std::map<std::string, Enum> words) {
  return [&into, words = std::move(words)](const std::string& value) {
    const auto word = words.find(value);
    if (word == words.end()) return false;
    into = word->second;
    return true;
  };
}

Setter endpoint(Options& options) {
  return [&options](const std::string& value) {
    const std::size_t colon = value.rfind(':');
    if (colon == std::string::npos || colon == 0) return false;
    options.address = value.substr(0, colon);
    if (options.address.starts_with('[') && options.address.ends_with(']')) {
      options.address = options.address.substr(1, options.address.size() - 2);
    }
    return number<std::uint16_t>(options.port, 0, 65535)(value.substr(colon + 1));
  };
}

}  // namespace

absl::StatusOr<Options> parse_options(int argc, char** argv) {
  using faaskit::FreezePolicy;
  using faaskit::Isolation;
  using faaskit::local::FreezerChoice;
  Options o;
  const std::map<std::string, bool*> flags = {{"--open-metrics", &o.open_metrics},
                                              {"--jwt-deploy", &o.jwt_deploy},
                                              {"--allow-host-network", &o.allow_host_network},
                                              {"--stop-on-stdin-eof", &o.stop_on_stdin_eof},
                                              {"--verbose", &o.verbose},
                                              {"--help", &o.help},
                                              {"-h", &o.help}};
  const std::map<std::string, Setter> settings = {
      {"--listen", endpoint(o)},
      {"--functions", text(o.functions_dir)},
      {"--state-dir", text(o.state_dir)},
      {"--runtime-dir", text(o.runtime_dir)},
      {"--instance", text(o.instance)},
      {"--host", list(o.hosts)},
      {"--allow-origin", list(o.origins)},
      {"--jwt-hs256-file", text(o.jwt_hs256_file)},
      {"--jwt-rs256-file", text(o.jwt_rs256_file)},
      {"--jwt-eddsa-file", text(o.jwt_eddsa_file)},
      {"--jwt-audience", text(o.jwt_audience)},
      {"--jwt-issuer", text(o.jwt_issuer)},
      {"--shards", number<std::uint32_t>(o.shards, 1, 256)},
      {"--max-sandboxes", number<std::uint32_t>(o.max_sandboxes, 1, 100'000)},
      {"--max-memory-mb", number<std::uint64_t>(o.max_memory_mb, 1, 1ull << 40)},
      {"--max-functions", number<std::uint32_t>(o.max_functions, 1, 1'000'000)},
      {"--max-starts", number<std::uint32_t>(o.max_starts, 1, 1024)},
      {"--max-connections", number<std::uint32_t>(o.max_connections, 1, 1'000'000)},
      {"--max-payload-bytes", number<std::uint64_t>(o.max_payload_bytes, 1, 1ull << 30)},
      {"--max-archive-bytes", number<std::uint64_t>(o.max_archive_bytes, 1, 1ull << 40)},
      {"--disk-budget-bytes", number<std::uint64_t>(o.disk_budget_bytes, 1, 1ull << 50)},
      {"--grace", milliseconds(o.grace)},
      {"--head-timeout", milliseconds(o.head_timeout)},
      {"--idle-timeout", milliseconds(o.idle_timeout)},
      {"--start-timeout", milliseconds(o.start_timeout)},
      {"--freezer", choice<FreezerChoice>(o.freezer, {{"automatic", FreezerChoice::automatic},
                                                      {"cgroup_v2", FreezerChoice::cgroup_v2},
                                                      {"cgroup_v1", FreezerChoice::cgroup_v1},
                                                      {"stop_signals", FreezerChoice::stop_signals},
                                                      {"none", FreezerChoice::none}})},
      {"--freeze", choice<FreezePolicy>(o.freeze, {{"at_once", FreezePolicy::at_once},
                                                   {"after_grace", FreezePolicy::after_grace},
                                                   {"never", FreezePolicy::never}})},
      {"--minimum-isolation", choice<Isolation>(o.minimum_isolation, {{"process", Isolation::process},
                                                                      {"partial", Isolation::partial},
                                                                      {"none", Isolation::none}})},
      {"--port-file", text(o.port_file)},
      {"--ready-fd", number<int>(o.ready_fd, 0, 1 << 20)},
  };
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i];
    if (const auto flag = flags.find(name); flag != flags.end()) {
      *flag->second = true;
      continue;
    }
    // Both "--name value" and "--name=value".
    const std::size_t equals = name.find('=');
    std::string value;
    const bool joined = equals != std::string::npos;
    if (joined) {
      value = name.substr(equals + 1);
      name = name.substr(0, equals);
    }
    const auto setting = settings.find(name);
    if (setting == settings.end()) return absl::InvalidArgumentError(absl::StrCat("unknown option ", name));
    if (!joined) {
      if (i + 1 == argc) return absl::InvalidArgumentError(absl::StrCat(name, " needs a value"));
      value = argv[++i];
    }
    if (!setting->second(value)) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": '", value, "' is not a value for it"));
    }
  }
  const bool jwt = !o.jwt_hs256_file.empty() || !o.jwt_rs256_file.empty() || !o.jwt_eddsa_file.empty();
  if (jwt && o.jwt_audience.empty()) {
    return absl::InvalidArgumentError("--jwt-audience is needed: a token for somebody else is not for us");
  }
  return o;
}

}  // namespace mini
