//! From a pushed tree to homes that run: build, releases, deployments, placing instances, preparing the boot, and a
//! shell inside.
//!
//! Everything here is a plain sequence that blocks, so it runs in a process of its own: a command in a terminal, the
//! deployment that it starts, or the planner below the daemon.

pub mod background;
pub mod build;
pub mod commands;
mod copy;
mod deploy;
mod deployed;
mod follow;
pub mod git;
mod homes;
mod ignored;
pub mod link;
mod pack;
mod packages;
pub mod prepare;
mod proxy;
pub mod push;
mod report;
mod responsive;
pub mod run;
mod script;
mod store;
mod traffic;
mod unpack;
pub mod up;
