# Sourced by try-systemd and try-package: a container with its own systemd and network, from a root folder.
# The caller sets `folder`, a temporary folder that is removed at the end.

NSPAWN="" LEADER="" MOUNTED=""

fail() {
    echo "FAILED  $*" >&2
    if [ -n "$LEADER" ]; then
        log -n 40 -o short-iso >&2 || true
    fi
    exit 1
}

# One line for each check, with its result.
seen() { printf 'ok      %-34s %s\n' "$1" "$2"; }

need_container_tools() {
    [ "$(id -u)" -eq 0 ] || { echo "This needs root: it boots a container." >&2; exit 2; }
    local program
    for program in systemd-nspawn nsenter "$@"; do
        command -v "$program" >/dev/null || {
            echo "$program is missing: apt-get install -y --no-install-recommends systemd-container debootstrap" >&2
            exit 2
        }
    done
}

# Mounts the folder $1 at $folder/root; writes go to the temporary folder.
overlay_of() {
    mkdir -p "$folder/upper" "$folder/work" "$folder/root"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
    MOUNTED="$folder/root"
}

# Boots $folder/root and waits until its systemd has started everything.
boot() {
    systemd-nspawn -D "$folder/root" --boot --register=no --keep-unit -M "try-$$" --private-network \
        </dev/null >"$folder/boot.log" 2>&1 &
    NSPAWN=$!
    local tries
    for tries in $(seq 120); do
        sleep 0.5
        LEADER=$(pgrep -o -P "$NSPAWN" || true)
        [ -n "$LEADER" ] || continue
        case $(inside systemctl is-system-running 2>/dev/null) in
        running | degraded) return 0 ;;
        esac
    done
    tail -n 20 "$folder/boot.log" >&2
    LEADER=""
    fail "the container did not boot within a minute"
}

inside() { nsenter -t "$LEADER" -a env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root "$@"; }

# No `log | grep -q`: grep would exit early, and the pipe would fail.
logged() { [[ "$(log "${@:2}")" == *"$1"* ]]; }
log() { inside journalctl -u incident-sync --no-pager "$@"; }

property() { inside systemctl show incident-sync --property "$1" --value; }

# Waits up to $1 seconds until the command succeeds.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.3
    done
}

# Starts the simulator of program $1 and prints a configuration for it.
start_simulator() {
    cp "$1" "$folder/root/usr/local/bin/simulator"
    inside systemd-run --quiet --unit simulator /usr/local/bin/simulator simulate --tenants 3 --incidents 20
    within 60 simulator_printed || fail "the simulator did not start"
    inside journalctl -u simulator -o cat --no-pager
}
simulator_printed() { [ "$(inside journalctl -u simulator -o cat --no-pager | grep -a -c '^name = ')" -eq 3 ]; }

# Writes the configuration that the simulator printed to $1, with the secret in a separate file $2, as an operator would. $3
# and the following arguments are lines for the top.
write_configuration() {
    local printed="$folder/printed.toml" file=$1 secret=$2
    shift 2
    {
        printf '%s\n' "$@"
        grep -A1000 -m1 '^\[app\]' "$printed" | sed 's/^client_secret = .*/client_secret_file = "client_secret"/'
    } >"$file"
    (umask 077 && sed -n 's/^client_secret = "\(.*\)"/\1/p' "$printed" >"$secret")
    [ -s "$secret" ] || fail "the simulator printed no secret"
}

end_container() {
    if [ -n "$LEADER" ]; then
        inside systemctl poweroff >/dev/null 2>&1 || true
        local tries
        for tries in $(seq 40); do
            kill -0 "$NSPAWN" 2>/dev/null || break
            sleep 0.5
        done
    fi
    if [ -n "$NSPAWN" ]; then
        kill -KILL "$NSPAWN" 2>/dev/null || true
        wait "$NSPAWN" 2>/dev/null || true
    fi
    NSPAWN="" LEADER=""
    [ -z "$MOUNTED" ] || umount "$MOUNTED"
    MOUNTED=""
    rm -rf "$folder"
}
