# Sourced by the other scripts: installs distribution packages, and builds as the owner of the tree, so that a build under sudo leaves
# no root-owned file where the user's later `cargo build` would trip over it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tree=$PWD
owner=$(stat -c %U "$tree")

say() { printf '\n== %s\n' "$*" >&2; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# install PACKAGE...: what is missing, from the distribution.
install() {
    local missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "needs ${missing[*]}: install them with this system's package manager, then run again"
    [ "$(id -u)" = 0 ] || die "needs ${missing[*]}: run with sudo, or: apt-get install ${missing[*]}"
    say "installing from the distribution: ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    }
}

# as_owner COMMAND...: with the rights, home and cargo of whoever owns the tree.
as_owner() {
    if [ "$(id -u)" != 0 ] || [ "$owner" = root ]; then
        "$@"
        return
    fi
    local home
    home=$(getent passwd "$owner" | cut -d: -f6)
    runuser -u "$owner" -- env HOME="$home" PATH="$home/.cargo/bin:$PATH" "$@"
}

need_cargo() {
    as_owner sh -c 'command -v cargo' >/dev/null || die "no cargo for user $owner: install a Rust toolchain (https://rustup.rs), then run again"
}
