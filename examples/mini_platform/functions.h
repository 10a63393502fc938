// The functions of this platform: what the registry says, made callable.
//
// A deploy: the code comes into the store, its function.json is read, the checks look at it, the registry
// takes the version, and only then the platform. What is refused on the way leaves the version that works as
// it is, and takes its code away again. After a restart every function of the registry is deployed again.
//
// Thread safety: every member from any thread; find() and list() do not block, the others do.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/auth/keys.h"
#include "faaskit/code/manifest.h"
#include "faaskit/local/platform.h"
#include "faaskit/port/code_store.h"
#include "faaskit/port/deploy_check.h"
#include "faaskit/port/registry.h"

namespace mini {

struct Known {
  faaskit::RegisteredFunction registered{};
  faaskit::code::Manifest manifest{};
  std::vector<faaskit::AccessKey> keys{};
  // Not OK: it cannot be called, and why.
  absl::Status state{};
};
using KnownPtr = std::shared_ptr<const Known>;

struct FunctionsOptions {
  // Functions that ask for more get this where the machine has no more.
  faaskit::Isolation minimum_isolation = faaskit::Isolation::process;
  std::size_t max_deploys = 8;  // at once
};

class Functions {
 public:
  // All outlive it.
  Functions(faaskit::Registry& registry, faaskit::CodeStore& codes, faaskit::local::Platform& platform,
            std::vector<std::shared_ptr<faaskit::DeployCheck>> checks, FunctionsOptions options);

  // Deploys what the registry holds. A function that cannot be is kept, with the reason.
  absl::Status restore();

  KnownPtr find(std::string_view name) const;  // null: there is none
  std::vector<KnownPtr> list() const;          // by name

  struct Deployed {
    KnownPtr function{};
    bool created = false;
  };
  //   kAborted       a deploy or removal of that name is under way
  //   kUnavailable   too many are
  //   else           what is wrong with the code, the manifest, the owner
  absl::StatusOr<Deployed> deploy(const std::string& name, const faaskit::CodeSource& source,
                                  const std::string& owner);
  absl::Status remove(const std::string& name);
  absl::StatusOr<std::vector<faaskit::RegisteredFunction>> versions(std::string_view name) const;

  // Also: from now on its calls need a key.
  absl::StatusOr<faaskit::auth::NewAccessKey> add_key(const std::string& name);
  absl::Status revoke_key(const std::string& name, const std::string& id);
  // Revokes all, and its calls need none.
  absl::Status open_to_all(const std::string& name);

 private:
  class Turn;

  absl::StatusOr<KnownPtr> install(const std::string& name, const faaskit::CodeId& code,
                                   const std::string& owner, const KnownPtr& before);
  absl::Status take_back(const std::string& name, const KnownPtr& before, const absl::Status& why);
  absl::StatusOr<faaskit::local::Function> to_function(const Known& known) const;
  absl::Status refresh(const std::string& name);
  void set(const std::string& name, KnownPtr known);
  void collect();

  faaskit::Registry& registry_;
  faaskit::CodeStore& codes_;
  faaskit::local::Platform& platform_;
  const std::vector<std::shared_ptr<faaskit::DeployCheck>> checks_;
  const FunctionsOptions options_;

  mutable std::shared_mutex table_mutex_;
  std::map<std::string, KnownPtr, std::less<>> table_;

  // Who is being changed now, and which codes may have become nobody's.
  std::mutex turns_mutex_;
  std::set<std::string> busy_;
  std::set<std::string> doubtful_;
};

}  // namespace mini
