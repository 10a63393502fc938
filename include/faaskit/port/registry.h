// Registry: which functions there are, durably: versions, owners, access keys.
//
// What a member has answered with OK survives kill -9 and power loss (as far as the disk tells the truth).
// Thread safety: every member from any thread; all may block: call them on the blocking executor.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"
#include "faaskit/port/code_store.h"

namespace faaskit {

// One version of a function. The newest is the current one.
struct RegisteredFunction {
  std::string name{};
  Version version = 0;  // given by the registry: grows with every put, also over a remove of the same name
  std::string
      owner{};  // whom it belongs to: who put it first (a subject, "admin"); a put by "admin" keeps it
  std::string manifest{};  // its function.json, as it was; the registry does not look inside
  CodeId code{};
  // Calls need one of its access keys. A put may turn it on; only require_key() turns it off, so that no
  // redeploy opens what was closed.
  bool requires_key = false;
  std::chrono::system_clock::time_point deployed_at{};  // for people
};

// A key is shown once, when it is made; what is kept is its hash.
struct AccessKey {
  std::string id{};  // short, public, for logs and for revoking
  std::string function{};
  std::string hash{};  // as the auth room makes it
  std::chrono::system_clock::time_point created_at{};
};

class FAASKIT_EXPORT Registry {
 public:
  // Two at once, so that one can be replaced without a gap.
  static constexpr std::size_t kMaxKeysPerFunction = 2;

  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;
  virtual ~Registry() = default;

  // Adds a version (`version` and `deployed_at` of the argument are ignored) and returns it as stored.
  //   kInvalidArgument    not a function name
  //   kPermissionDenied   the function belongs to another owner
  //   kResourceExhausted  the bound on functions, or the disk is full
  //   kUnavailable        the store is locked by another process, or broken: with its own words
  virtual absl::StatusOr<RegisteredFunction> put(RegisteredFunction function) = 0;
  // The current version. kNotFound.
  virtual absl::StatusOr<RegisteredFunction> get(std::string_view name) const = 0;
  // Current versions by name.
  virtual absl::StatusOr<std::vector<RegisteredFunction>> list() const = 0;
  // All versions kept of one function, newest first. The newest `keep` are kept (an option of the adapter).
  virtual absl::StatusOr<std::vector<RegisteredFunction>> versions(std::string_view name) const = 0;
  // With all versions and keys. kNotFound.
  virtual absl::Status remove(std::string_view name) = 0;
  // Codes that some kept version of any function names.
  virtual absl::StatusOr<std::vector<CodeId>> codes() const = 0;

  // kNotFound: no such function. kResourceExhausted: it has two keys; revoke one first.
  virtual absl::Status add_key(const AccessKey& key) = 0;
  virtual absl::StatusOr<std::vector<AccessKey>> keys(std::string_view function) const = 0;
  // kNotFound.
  virtual absl::Status revoke_key(std::string_view function, std::string_view id) = 0;
  // Whether calls of the function need a key, from now on. kNotFound.
  virtual absl::Status require_key(std::string_view function, bool required) = 0;

 protected:
  Registry() = default;
};

}  // namespace faaskit
