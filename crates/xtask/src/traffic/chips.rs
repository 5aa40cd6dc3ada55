//! Apple's chips as far as they are known in public.

/// Assumed between a launch's end and the next one's beginning: nobody has measured it here.
pub const GAP_MICROSECONDS: f64 = 3.0;

/// Assumed of the peak where a weight is unpacked, which is not counted, for a few rows only.
const FEW_ROWS: f64 = 0.25;
/// Assumed where it is for many, or there is none.
const MANY_ROWS: f64 = 0.5;
/// Operations for a byte of weights that few rows make: eight rows of four-bit weights make 28.
const FEW_OPERATIONS: u64 = 32;

/// A chip with all its GPU cores.
#[derive(Debug)]
pub struct Chip {
    pub name: &'static str,
    /// GB/s, as Apple says.
    pub bandwidth: f64,
    /// In f32. Apple says it of M1 and M2; of others cores, times 128 units, times two, times the
    /// clock that is reported.
    pub tflops: f64,
}

pub const CHIPS: &[Chip] = &[
    Chip { name: "M1", bandwidth: 68.0, tflops: 2.6 },
    Chip { name: "M1 Max", bandwidth: 400.0, tflops: 10.4 },
    Chip { name: "M1 Ultra", bandwidth: 800.0, tflops: 20.8 },
    Chip { name: "M2", bandwidth: 100.0, tflops: 3.6 },
    Chip { name: "M2 Max", bandwidth: 400.0, tflops: 13.6 },
    Chip { name: "M3", bandwidth: 100.0, tflops: 3.5 },
    Chip { name: "M3 Max", bandwidth: 400.0, tflops: 14.1 },
    Chip { name: "M4", bandwidth: 120.0, tflops: 4.0 },
    Chip { name: "M4 Max", bandwidth: 546.0, tflops: 16.1 },
    Chip { name: "M5", bandwidth: 153.0, tflops: 4.1 },
];

impl Chip {
    /// TFLOPS that a kernel is taken to reach.
    pub fn usable_tflops(&self, operations: u64, weight_bytes: u64) -> f64 {
        let few = operations <= FEW_OPERATIONS * weight_bytes;
        self.tflops * if few { FEW_ROWS } else { MANY_ROWS }
    }
}

/// The chips, for people.
pub fn table() -> String {
    let mut text = format!(
        "\n| chip | GB/s | TFLOPS (f32) |\n|---|---|---|\n{}",
        CHIPS
            .iter()
            .map(|chip| format!("| {} | {} | {} |\n", chip.name, chip.bandwidth, chip.tflops))
            .collect::<String>()
    );
    text += &format!(
        "\nAssumed: {GAP_MICROSECONDS} µs between two launches; {:.0} % of the peak where a weight that was unpacked is \
         multiplied by up to eight rows, {:.0} % where by more.\n",
        100.0 * FEW_ROWS,
        100.0 * MANY_ROWS
    );
    text
}
