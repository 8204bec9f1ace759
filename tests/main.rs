//! hob, proved as its user meets it: one test binary, a file per subject.
//!
//! The tests run the built `hob` and look at it from outside. What they need of the machine (root, runc, systemd, ...)
//! they ask for with `support::need`; `.ci/run` installs all of it, and there nothing is skipped.

mod support;

mod boot;
mod config_errors;
mod containers;
mod control;
mod docs;
mod examples;
mod export;
mod failure_modes;
mod git;
mod hostile;
mod hygiene;
mod launch;
mod layers;
mod listen;
mod logs;
mod many;
mod measured;
mod migrate;
mod page;
mod panics;
mod pid1;
mod pidproxy;
mod power_cut;
mod proxy;
mod push;
mod push_hostile;
mod security;
mod setups;
mod soak;
mod stop;
mod supervise;
mod supervisorctl;
mod supervisord;
mod supervisord_own;
mod systemd;
mod upgrade;
