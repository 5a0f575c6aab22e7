//! What the fuzz targets share: files of hostile bytes, and hostile programs.
//!
//! Readers of the library take paths, so bytes go to a file in memory where the system has such files.

pub mod files;
pub mod programs;
pub mod training;
