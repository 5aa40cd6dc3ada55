//! What each format loses of given values, and how fast it is written and read.
//!
//! `cargo run --release -p quarrel-gguf --example quantize_error -- VALUES.f32`,
//! a file of little-endian f32.

use std::time::{Duration, Instant};

use quarrel_gguf::Format;
use quarrel_gguf::format::Support;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: quantize_error VALUES.f32")?;
    let bytes = std::fs::read(path)?;
    // Whole super-blocks, so that every format is measured on the same values.
    let bytes = &bytes[..bytes.len() / 1024 * 1024];
    let mut values = vec![0.0; bytes.len() / 4];
    Format::F32.dequantize(bytes, &mut values)?;
    let mut back = vec![0.0; values.len()];
    for &format in Format::ALL.iter().filter(|format| format.support() == Support::Full) {
        let mut row = vec![0; format.row_bytes(values.len())?];
        let start = Instant::now();
        format.quantize(&values, &mut row)?;
        let written = start.elapsed();
        format.dequantize(&row, &mut back)?;
        let read = start.elapsed() - written;
        let squares = values.iter().zip(&back).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2));
        let error = (squares.sum::<f64>() / values.len() as f64).sqrt();
        let speed = |time: Duration| values.len() as f64 / time.as_secs_f64() / 1e6;
        println!(
            "{format}\terror {error:.6e}\twritten {:.0}, read {:.0} million elements/s",
            speed(written),
            speed(read)
        );
    }
    Ok(())
}
