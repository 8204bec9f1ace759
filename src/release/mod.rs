//! From a pushed tree to homes that run: build, placing instances, preparing the boot, and a shell inside.
//!
//! Everything here is a plain sequence that blocks, so it runs in a process of its own: a command in a terminal, or
//! the planner below the daemon.

pub mod build;
mod copy;
mod packages;
pub mod prepare;
pub mod run;
mod script;
pub mod up;
