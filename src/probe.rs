pub fn run(_p: &crate::plan::Probe) -> (i32, String) {
    (1, "x".into())
}
