#include "process/spec_check.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdint>
#include <string_view>

#include <absl/strings/str_cat.h>

#include "process/paths.h"
#include "support/errno_status.h"

namespace faaskit::process {
namespace {

constexpr std::size_t kMaxEnvironmentBytes = 64 << 10;
// Less does not even hold the spare.
constexpr std::uint64_t kMinMemoryBytes = 1 << 20;
// A thousandth of a CPU is 0.1 ms in each 100 ms, and the kernel refuses less than 1 ms.
constexpr std::uint32_t kMinCpuMilli = 10;

bool valid_name(std::string_view text) {
  if (text.empty() || std::isdigit(static_cast<unsigned char>(text[0]))) return false;
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) || c == '_'; });
}

bool valid_dotted_name(std::string_view text) {
  for (;;) {
    const std::size_t dot = text.find('.');
    if (!valid_name(text.substr(0, dot))) return false;
    if (dot == std::string_view::npos) return true;
    text.remove_prefix(dot + 1);
  }
}

// "package.module:callable", dots allowed on both sides; with "asgi:" or "wsgi:" before it, if it is a web
// application.
bool valid_python_handler(std::string_view handler) {
  std::size_t colon = handler.find(':');
  if (colon == std::string_view::npos) return false;
  const std::string_view first = handler.substr(0, colon);
  if ((first == "asgi" || first == "wsgi") && handler.find(':', colon + 1) != std::string_view::npos) {
    handler.remove_prefix(colon + 1);
    colon = handler.find(':');
  }
  return valid_dotted_name(handler.substr(0, colon)) && valid_dotted_name(handler.substr(colon + 1));
}

// "path/of/module:function"; the path without its extension, in the code's folder.
bool valid_node_handler(std::string_view handler) {
  const std::size_t colon = handler.rfind(':');
  if (colon == std::string_view::npos) return false;
  const std::string_view module = handler.substr(0, colon);
  return stays_inside(module) &&
         std::all_of(module.begin(), module.end(),
                     [](unsigned char c) {
                       return std::isalnum(c) ||
                              std::string_view("_-.@$/").find(static_cast<char>(c)) != std::string_view::npos;
                     }) &&
         valid_dotted_name(handler.substr(colon + 1));
}

absl::Status check_runtime(const FunctionSpec& spec, const Offer& offer, const std::string& who) {
  if (spec.runtime == "exec") return absl::OkStatus();
  if (spec.runtime != "python3" && spec.runtime != "node")
    return absl::InvalidArgumentError(
        absl::StrCat(who, "runtime '", spec.runtime, "': python3, node and exec are known"));
  if ((spec.runtime == "node" ? offer.node : offer.python).empty())
    return absl::FailedPreconditionError(
        absl::StrCat(who, "runtime ", spec.runtime, ": no interpreter found on this machine"));
  return absl::OkStatus();
}

absl::Status check_code(const FunctionSpec& spec, const std::string& code_path, struct stat& code,
                        const std::string& who) {
  if (code_path.empty() || code_path.find('\0') != std::string::npos)
    return absl::InvalidArgumentError(absl::StrCat(who, "code_path is empty or holds a zero byte"));
  if (::stat(code_path.c_str(), &code) != 0)
    return errno_status(errno, absl::StrCat(who, "code_path ", code_path));
  const bool folder = S_ISDIR(code.st_mode);
  if (!folder && !S_ISREG(code.st_mode))
    return absl::InvalidArgumentError(
        absl::StrCat(who, "code_path ", code_path, " is neither a file nor a folder"));
  const mode_t needed = folder || spec.runtime == "exec" ? S_IROTH | S_IXOTH : S_IROTH;
  if ((code.st_mode & needed) != needed)
    return absl::InvalidArgumentError(absl::StrCat(who, "code_path ", code_path, " must be ",
                                                   needed == S_IROTH ? "readable" : "readable and executable",
                                                   " by others: the sandbox has a uid of its own"));
  return absl::OkStatus();
}

absl::Status check_handler(const FunctionSpec& spec, bool folder, const std::string& who) {
  const auto refused = [&](const char* rule) {
    return absl::InvalidArgumentError(absl::StrCat(who, "handler '", spec.handler, "': must ", rule));
  };
  if (spec.runtime == "python3" && !valid_python_handler(spec.handler))
    return refused("be module:callable, asgi:module:app or wsgi:module:app");
  if (spec.runtime == "node" && !valid_node_handler(spec.handler)) return refused("be module:function");
  if (spec.runtime == "exec" && folder && !stays_inside(spec.handler))
    return refused("name a file in code_path");
  return absl::OkStatus();
}

absl::Status check_limits(const ResourceLimits& limits, const std::string& who) {
  if (limits.memory_bytes < kMinMemoryBytes)
    return absl::InvalidArgumentError(
        absl::StrCat(who, "limits.memory_bytes is ", limits.memory_bytes, ", at least ", kMinMemoryBytes));
  if (limits.pids == 0) return absl::InvalidArgumentError(absl::StrCat(who, "limits.pids is 0, at least 1"));
  if (limits.cpu_weight < 1 || limits.cpu_weight > 10000)
    return absl::InvalidArgumentError(
        absl::StrCat(who, "limits.cpu_weight is ", limits.cpu_weight, ", 1 to 10000"));
  if (limits.cpu_max_milli && *limits.cpu_max_milli < kMinCpuMilli)
    return absl::InvalidArgumentError(
        absl::StrCat(who, "limits.cpu_max_milli is ", *limits.cpu_max_milli, ", at least ", kMinCpuMilli));
  return absl::OkStatus();
}

absl::Status check_environment(const FunctionSpec& spec, const std::string& who) {
  std::size_t bytes = 0;
  for (const auto& [name, value] : spec.env) {
    if (!valid_name(name) || value.find('\0') != std::string::npos)
      return absl::InvalidArgumentError(
          absl::StrCat(who, "env '", name, "': names are [A-Za-z_][A-Za-z0-9_]*, values without zero bytes"));
    bytes += name.size() + value.size() + 2;
  }
  if (bytes > kMaxEnvironmentBytes)
    return absl::InvalidArgumentError(
        absl::StrCat(who, "env holds ", bytes, " bytes, limit ", kMaxEnvironmentBytes));
  return absl::OkStatus();
}

}  // namespace

absl::Status check_spec(const FunctionSpec& spec, const std::string& code_path, const Offer& offer,
                        struct stat& code) {
  const std::string who = absl::StrCat("function ", spec.name, ": ");
  if (static_cast<int>(offer.isolation) < static_cast<int>(spec.minimum_isolation))
    return absl::FailedPreconditionError(absl::StrCat(
        who, "minimum_isolation is ", std::string(to_string(spec.minimum_isolation)), ", this machine gives ",
        std::string(to_string(offer.isolation)), offer.missing.empty() ? "" : "; missing: ", offer.missing));
  if (absl::Status status = check_runtime(spec, offer, who); !status.ok()) return status;
  if (absl::Status status = check_code(spec, code_path, code, who); !status.ok()) return status;
  if (absl::Status status = check_handler(spec, S_ISDIR(code.st_mode), who); !status.ok()) return status;
  if (spec.network == Network::host && !offer.host_network)
    return absl::FailedPreconditionError(
        absl::StrCat(who, "network is host, and allow_host_network is off here"));
  if (spec.network == Network::loopback && !offer.loopback)
    return absl::FailedPreconditionError(
        absl::StrCat(who, "network is loopback, and this host cannot bring one up: CAP_NET_ADMIN"));
  if (absl::Status status = check_limits(spec.limits, who); !status.ok()) return status;
  return check_environment(spec, who);
}

}  // namespace faaskit::process
