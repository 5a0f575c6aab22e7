//! Arguments that several examples take.

use std::io::ErrorKind;

use candle_core::Device;
use clap::{Parser, ValueEnum};
use lnca::{DeviceName, ModelConfig};

use crate::{Result, note};

/// A published system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModelName {
    /// An attention-free NCA in latent space
    LatentNafca,
    /// An attention NCA in latent space
    LatentVitca,
    /// An attention NCA on pixels
    Vitca,
    /// A gated NCA on pixels: this library's own
    Gated,
    /// A convolutional network of 116 million weights
    #[value(name = "nafnet")]
    NafNet,
    /// A network of 26 million weights with attention over channels
    Restormer,
}

impl ModelName {
    /// Whether its automaton works in the latent space of an autoencoder.
    pub fn is_latent(self) -> bool {
        self.config().is_latent()
    }

    /// Its published sizes.
    pub fn config(self) -> ModelConfig {
        match self {
            Self::LatentNafca => ModelConfig::latent_nafca(),
            Self::LatentVitca => ModelConfig::latent_vitca(),
            Self::Vitca => ModelConfig::vitca(),
            Self::Gated => ModelConfig::gated(),
            Self::NafNet => ModelConfig::nafnet(),
            Self::Restormer => ModelConfig::restormer(),
        }
    }
}

/// Where to compute
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct OnDevice {
    /// Where to compute: cpu; or, in a build with `--features cuda`, cuda or cuda:N
    // Other arguments are called `name`, too.
    #[arg(id = "device", long = "device", value_name = "DEVICE", default_value = "cpu")]
    pub name: DeviceName,
}

impl OnDevice {
    /// The device.
    ///
    /// # Errors
    /// The program was built without it, or the machine has none.
    pub fn open(self) -> Result<Device> {
        Ok(self.name.open().map_err(|error| format!("`--device`: {error}"))?)
    }
}

/// The word by which a value is chosen on the command line.
pub fn word(value: impl ValueEnum) -> String {
    let word = value.to_possible_value();
    word.map_or(String::new(), |word| word.get_name().to_string())
}

/// Most cells along a side of a grid, and pixels along a side of a picture: its states take gigabytes.
pub const MOST_SIDE: usize = 4096;

/// Most steps of a rollout, updates of a training, images, and whatever else is counted: more take years.
pub const MOST: usize = 1_000_000_000;

/// Most of what is held in memory together: images in a batch, samples, channels.
pub const MOST_AT_ONCE: usize = 65_536;

/// Parses a whole number.
pub fn whole<const LEAST: usize, const MOST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (LEAST..=MOST).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from {LEAST} to {MOST}")),
    }
}

/// Parses a whole number from 1, of what is counted.
pub fn count(text: &str) -> Result<usize, String> {
    whole::<1, MOST>(text)
}

/// Parses a whole number from 1, of what is in memory together.
pub fn at_once(text: &str) -> Result<usize, String> {
    whole::<1, MOST_AT_ONCE>(text)
}

/// Parses the side of a grid or picture.
pub fn side(text: &str) -> Result<usize, String> {
    whole::<1, MOST_SIDE>(text)
}

/// Parses a number from 0 to 1, such as a learning rate.
pub fn rate(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1.0)
}

/// Parses a number from 0, such as a weight or seconds.
pub fn amount(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1e9)
}

/// Parses an angle in degrees.
pub fn degrees(text: &str) -> Result<f64, String> {
    number(text, -1e6, 1e6)
}

fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    match text.parse() {
        // Also false for NaN.
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("expected a number from {least} to {most}")),
    }
}

/// The arguments of this process. It ends here if they are wrong or ask for help.
pub fn parse<P: Parser>() -> P {
    P::try_parse().unwrap_or_else(|error| end(&error))
}

/// Ends this process with help or what is wrong with its arguments.
pub fn end(error: &clap::Error) -> ! {
    let code = match error.print() {
        Err(failure) if !error.use_stderr() && failure.kind() != ErrorKind::BrokenPipe => {
            note!("error: help cannot be written to standard output: {failure}");
            1
        }
        _ => error.exit_code(),
    };
    std::process::exit(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named() {
        #[derive(Parser)]
        struct Command {
            #[command(flatten)]
            device: OnDevice,
        }
        let parse = |words: &[&str]| Command::try_parse_from([&["test"], words].concat());
        let name = |words: &[&str]| parse(words).map(|command| command.device.name);
        assert_eq!(name(&[]).ok(), Some(DeviceName::Cpu));
        assert_eq!(name(&["--device", "cuda:1"]).ok(), Some(DeviceName::Cuda(1)));
        let error = name(&["--device", "tpu"]).unwrap_err().to_string();
        assert!(error.contains("--device") && error.contains("cuda:N"), "{error}");
    }

    #[test]
    fn numbers_have_bounds_that_are_told() {
        assert_eq!(whole::<0, 5>("0"), Ok(0));
        assert_eq!(
            (count("7"), at_once("65536"), side("4096")),
            (Ok(7), Ok(65_536), Ok(4096))
        );
        for wrong in [
            "0",
            "4097",
            "18446744073709551615",
            "99999999999999999999",
            "-1",
            "1.5",
            "nan",
            "",
        ] {
            let message = side(wrong).unwrap_err();
            assert!(message.contains("from 1 to 4096"), "{message}");
        }
        assert_eq!(
            (rate("0.5"), amount("1e3"), degrees("-90")),
            (Ok(0.5), Ok(1000.0), Ok(-90.0))
        );
        for wrong in ["nan", "NaN", "inf", "-inf", "-1", "1.1", "", "0,5"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert!(amount("-0.1").is_err() && amount("inf").is_err() && degrees("nan").is_err());
    }
}
