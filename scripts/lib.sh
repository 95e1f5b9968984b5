# shellcheck shell=bash
# What the scripts share: sourced by them, with the repository's root as the working folder afterwards.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

say() { printf '== %s\n' "$*"; }

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Prints the comment at the top of the script that was called.
help() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "scripts/${0##*/}"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    die "this needs root, and there is no sudo; run as root: $*"
  fi
}

# Installs those of these Debian packages that are missing.
need_packages() {
  if ! have dpkg-query || ! have apt-get; then
    say "not Debian or Ubuntu: see to it that what these packages hold is installed: $*"
    return
  fi
  local package missing=()
  for package; do
    # shellcheck disable=SC2016 # the braces are dpkg-query's own
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
      missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
    install --yes --no-install-recommends "${missing[@]}"
}

rust_is_new_enough() {
  local version
  version=$(cargo --version 2>/dev/null | awk '{print $2}')
  [ -n "$version" ] && printf '%s\n' "$1" "$version" | sort --version-sort --check=quiet
}

# Sees to a Rust toolchain of the version that Cargo.toml asks for.
need_rust() {
  local wanted
  wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
  if ! have cargo && [ -f "$HOME/.cargo/env" ]; then
    # shellcheck disable=SC1091 # made by rustup
    . "$HOME/.cargo/env"
  fi
  rust_is_new_enough "$wanted" && return
  if ! have rustup && have apt-cache && [ -n "$(apt-cache --names-only search '^rustup$')" ]; then
    need_packages rustup
  fi
  if have rustup; then
    say "installing Rust with rustup"
    rustup toolchain install stable --profile default
    rustup default stable
    rust_is_new_enough "$wanted" && return
  fi
  die "Rust $wanted or newer is needed, and this system has no package of it." \
    "https://rustup.rs installs it in a minute; then run this again."
}

# Where cargo puts what it builds.
target() { printf '%s\n' "${CARGO_TARGET_DIR:-$PWD/target}"; }
