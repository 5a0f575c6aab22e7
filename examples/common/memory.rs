//! Memory of this process and of the system, as Linux tells it.

/// A line of this process's memory in MiB, such as `VmHWM`, its high-water mark; 0 where the system does not say.
pub fn of_process(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status
        .lines()
        .find_map(|l| l.strip_prefix(line)?.strip_prefix(':'));
    let number = kilobytes.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    number.unwrap_or(0.0) / 1024.0
}
