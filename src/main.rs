//! Picks the role, by the name hob was called by or by subcommand; nothing else.

#![deny(unsafe_code)]

mod cli;
mod client;
mod config;
mod control;
mod convert;
mod daemon;
mod getopt;
mod init;
mod logger;
mod pidproxy;
mod plan;
mod probe;
mod release;
mod supervisor;
mod supervisord;
#[allow(unsafe_code)]
mod sys;
mod wire;
mod xmlrpc;

fn main() {
    cli::main()
}
