// A folder for a registry, and words to fill it.
#pragma once

#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "catch.hpp"
#include "faaskit/registry/sqlite_registry.h"
#include "temporary_folder.h"

namespace faaskit::registry {

struct Folder : TemporaryFolder {
  std::string file() const { return path() + "/registry.db"; }
};

inline std::unique_ptr<Registry> open(const SqliteRegistryOptions& options) {
  absl::StatusOr<std::unique_ptr<Registry>> registry = make_sqlite_registry(options);
  INFO(registry.status().message());
  REQUIRE(registry.ok());
  return *std::move(registry);
}
inline std::unique_ptr<Registry> open(const Folder& folder) { return open({.path = folder.file()}); }

inline CodeId code(char digit) { return {CodeKind::copied, "sha256:" + std::string(64, digit)}; }

inline RegisteredFunction function(const std::string& name, const std::string& owner = "alice",
                                   char digit = 'a') {
  RegisteredFunction function;
  function.name = name;
  function.owner = owner;
  function.manifest = R"({"runtime":"python3"})";
  function.code = code(digit);
  return function;
}

inline RegisteredFunction put(Registry& registry, RegisteredFunction what) {
  absl::StatusOr<RegisteredFunction> stored = registry.put(std::move(what));
  INFO(stored.status().message());
  REQUIRE(stored.ok());
  return *std::move(stored);
}

inline AccessKey key(const std::string& function, const std::string& id) {
  return {.id = id, .function = function, .hash = "v1:sha256:" + id, .created_at = {}};
}

}  // namespace faaskit::registry
