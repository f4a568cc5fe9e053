# shellcheck shell=bash
# What scripts/test and scripts/demo share: saying things, and installing what is missing by package
# name. Sourced from the root of the repository, with NAME set to the script's own name.

readonly ANVIL_VERSION=1.7.1

tools=${NOZZLE_TEST_TOOLS:-$PWD/target/tools}

say() { printf '%s: %s\n' "$NAME" "$*"; }
fail() {
  printf '%s: %s\n' "$NAME" "$*" >&2
  exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

# Runs a command whose output matters only if it fails.
quietly() {
  local log
  log=$(mktemp)
  if "$@" >"$log" 2>&1 </dev/null; then
    rm -f "$log"
    return 0
  fi
  tail -n 40 "$log" >&2
  rm -f "$log"
  fail "this failed: $*"
}

can_install() {
  has apt-get && { [[ $(id -u) == 0 ]] || has sudo; }
}

# install_packages PACKAGE…: with apt-get, as root or through sudo.
install_packages() {
  [[ $# -gt 0 ]] || return 0
  # Links are only slower without mold: `scripts/linker` then takes the system's linker.
  if [[ $* == mold ]] && ! can_install; then
    return 0
  fi
  can_install || fail "install these packages and try again: $*"
  say "installing with apt-get: $*"
  local sudo=()
  [[ $(id -u) == 0 ]] || sudo=(sudo)
  quietly "${sudo[@]}" apt-get -qq update
  quietly "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq install -y --no-install-recommends "$@"
}

# The packages that a build needs and that are missing.
packages_to_build() {
  has cc || echo build-essential
  has mold || echo mold
}

# Makes the folder of tools. Two runs may share it: one installs, the other waits and finds it done.
lock_tools() {
  mkdir -p "$tools"
  tools=$(cd "$tools" && pwd)
  export NOZZLE_TEST_TOOLS=$tools
  exec {tools_lock}>"$tools/.lock"
  ! has flock || flock "$tools_lock"
}

unlock_tools() { exec {tools_lock}>&-; }

install_anvil() {
  if [[ -n ${NOZZLE_ANVIL:-} ]]; then
    [[ -x $NOZZLE_ANVIL ]] || fail "NOZZLE_ANVIL names no program: $NOZZLE_ANVIL"
    return 0
  fi
  local package installed
  package=@foundry-rs/anvil-$(npm_system)-$(npm_architecture)
  NOZZLE_ANVIL=$tools/node_modules/$package/bin/anvil
  installed=$("$NOZZLE_ANVIL" --version 2>/dev/null | head -n 1 || true)
  if [[ $installed != *"$ANVIL_VERSION"* ]]; then
    say "installing with npm: $package@$ANVIL_VERSION"
    quietly npm install --prefix "$tools" --no-save --no-audit --no-fund --loglevel=error \
      "$package@$ANVIL_VERSION"
    [[ -x $NOZZLE_ANVIL ]] || fail "the npm package $package has no program bin/anvil"
  fi
  export NOZZLE_ANVIL
}

npm_system() { if [[ $(uname -s) == Darwin ]]; then echo darwin; else echo linux; fi; }
npm_architecture() {
  case $(uname -m) in
    x86_64 | amd64) echo amd64 ;;
    aarch64 | arm64) echo arm64 ;;
    *) uname -m ;;
  esac
}
