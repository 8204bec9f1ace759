use crate::supervisor::Supervisor;
use crate::supervisor::event::*;
use crate::wire;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
pub struct LogQuery;
#[derive(Clone, Copy)]
pub struct Ticket;
pub trait Host {
    fn supervisor(&self) -> &Supervisor;
    fn pid(&self, run: Run) -> Option<i32>;
    fn now(&self) -> Time;
    fn info(&self) -> wire::Info;
    fn troubles(&self, id: ProcessId) -> Vec<String>;
    fn feed(&mut self, event: Event);
    fn signal(&mut self, run: Run, signal: i32) -> io::Result<()>;
    fn reload(&mut self, ticket: Ticket);
    fn stream_logs(&mut self, socket: OwnedFd, query: LogQuery);
    fn shutdown(&mut self);
}
pub struct Control;
impl Control {
    pub fn bind(_p: &Path, _m: u32, _g: Option<u32>) -> io::Result<Control> {
        Ok(Control)
    }
    pub fn register(&mut self, _r: &mio::Registry, _t: usize) -> io::Result<()> {
        Ok(())
    }
    pub fn ready(&mut self, _r: &mio::Registry, _e: &mio::event::Event, _h: &mut dyn Host) {}
    pub fn changed(&mut self, _c: &Change, _h: &mut dyn Host) {}
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }
    pub fn handle_timeout(&mut self, _n: Time, _h: &mut dyn Host) {}
    pub fn reload_done(&mut self, _t: Ticket, _r: Result<String, Vec<String>>, _h: &mut dyn Host) {}
    pub fn goodbye(&mut self) {}
    pub fn rebind(&mut self) {}
}
