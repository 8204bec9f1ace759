//! Picks the role, by the name hob was called by or by subcommand; nothing else.

#![deny(unsafe_code)]

/// A line on stderr. Unlike `eprintln!` it does not panic where nobody reads it (`hob check 2>&1 | head -1`).
macro_rules! tell {
    ($($text:tt)*) => {
        drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($text)*))))
    };
}

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
