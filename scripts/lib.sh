# Sourced by the other scripts: the prerequisites of building and running.

# Prints the folder of PostgreSQL's server programs (version 15 or newer), or nothing.
postgres_bin() {
    local candidate version
    for candidate in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -rn) \
        "$(dirname "$(command -v postgres 2>/dev/null || echo /none/postgres)")"; do
        [ -x "$candidate/postgres" ] && [ -x "$candidate/initdb" ] || continue
        version=$("$candidate/postgres" --version | sed -E 's/[^0-9]*([0-9]+).*/\1/')
        [ "$version" -ge 15 ] && echo "$candidate" && return
    done
    return 0
}

# Installs PostgreSQL's programs if they are missing and root permits it; starts no server.
need_postgres() {
    [ -n "$(postgres_bin)" ] && return
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null && as_root=(sudo -n)
        if [ ${#as_root[@]} -eq 0 ]; then
            echo "PostgreSQL's server programs (15 or newer) are missing. Install them: apt-get install postgresql" >&2
            exit 1
        fi
    fi
    echo "Installing Debian's package postgresql; no server is started." >&2
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends postgresql-common
    "${as_root[@]}" sed -i -E 's/^#? *create_main_cluster *=.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends postgresql
    if [ -z "$(postgres_bin)" ]; then
        echo "PostgreSQL was installed, but it is older than 15; set database.postgres_bin or database.url." >&2
        exit 1
    fi
}

# Installs a Debian package that some tests need if its program is missing and root permits it. Those tests print SKIPPED
# where it cannot be installed.
want_package() {
    local package=$1 program=${2:-$1}
    command -v "$program" >/dev/null && return
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || return 0
        as_root=(sudo -n)
    fi
    command -v apt-get >/dev/null || return 0
    local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$package")
    "${install[@]}" >&2 || { "${as_root[@]}" apt-get update -q >&2 && "${install[@]}" >&2; } || true
}

need_compiler() {
    if ! command -v cargo >/dev/null; then
        echo "A Rust toolchain is missing (cargo); see https://www.rust-lang.org/tools/install" >&2
        exit 1
    fi
}
