//! Kills, failpoints and hostile peers.

mod failpoints;
mod hostile_peers;
mod kill_loop;
mod kills;
mod source_moves;
