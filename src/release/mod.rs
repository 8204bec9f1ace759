pub mod prepare;
pub mod build {
    use super::prepare::*;
    pub fn main(
        _d: &std::path::Path,
        _h: Option<&std::path::Path>,
        _s: &crate::config::Settings,
    ) -> Result<i32, Refused> {
        Ok(111)
    }
}
pub mod up {
    use super::prepare::*;
    pub fn build(_d: &std::path::Path, _s: &crate::config::Settings) -> Result<Source, Refused> {
        Ok(Source::Nothing)
    }
}
pub mod run {
    pub fn main(_e: &crate::wire::Environment, _c: &[std::ffi::OsString]) -> Result<i32, String> {
        Ok(111)
    }
}
