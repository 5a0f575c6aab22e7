//! The engine computes what plain Candle operations compute, forwards and backwards, bit for bit the
//! same on any number of threads.

mod agreement;
mod random_programs;
