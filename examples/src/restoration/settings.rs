//! The settings of a run: what its arguments and the defaults come to.

use std::path::{Path, PathBuf};

use lnca::data::Kind;
use lnca::{ModelConfig, Recipe};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::Task;
use super::args::Args;
use crate::Result;
use crate::args::ModelName;

/// The default length: what a laptop trains in about two minutes. Small batches make more updates in the same
/// time.
const QUICK: Schedule = Schedule {
    images: Some(1000),
    ae_epochs: 10,
    epochs: 8,
    end_to_end: 4,
    batch: 4,
};

/// The same for the gated model, which has no second phase.
const QUICK_GATED: Schedule = Schedule {
    epochs: 10,
    end_to_end: 0,
    batch: 8,
    ..QUICK
};

/// With `--paper`: the paper's epochs and batches, on all images.
const PAPER: Schedule = Schedule {
    images: None,
    ae_epochs: 20,
    epochs: 20,
    end_to_end: 0,
    batch: 8,
};

/// Number of generated images with `--paper`.
const ALL_DEAD_LEAVES: usize = 5000;

struct Schedule {
    images: Option<usize>,
    ae_epochs: usize,
    /// Epochs of a model; of a latent model, the last `end_to_end` of them train encoder, NCA and decoder
    /// together.
    epochs: usize,
    end_to_end: usize,
    batch: usize,
}

/// Everything that determines the trained model. A run is resumed only with equal settings.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Name of the model.
    pub model: &'static str,
    /// Whether the recipe is the paper's.
    pub paper: bool,
    /// Folders of images; generated ones without any.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "all_shown")]
    pub data: Vec<PathBuf>,
    /// Layout of the folder.
    pub kind: Option<String>,
    /// Most images to use.
    pub images: Option<usize>,
    /// Side of the images in pixels.
    pub size: usize,
    /// Whether photographs are cut into patches at their own resolution.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub patches: bool,
    /// The independent noise, if it is not the task's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma: Option<String>,
    /// Epochs of the autoencoder.
    pub ae_epochs: usize,
    /// Epochs of the NCA or network.
    pub epochs: usize,
    /// Epochs of encoder, NCA and decoder together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_to_end: Option<usize>,
    /// Images in a batch.
    pub batch: usize,
    /// Whether the automaton is left out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bypass: bool,
    /// Learning rate of the NCA, if not that of the recipe.
    pub learning_rate: Option<f64>,
    /// Changed fields of the recipe, as `FIELD=VALUE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
    /// Model file with the first weights.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown")]
    pub start: Option<PathBuf>,
    /// Seed of every draw.
    pub seed: u64,
    /// Name of the device.
    pub device: String,
}

/// Names of files need not be UTF-8, which would be an error of serialisation.
fn shown<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(to)
}

fn all_shown<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

impl Settings {
    /// The settings that `args` and the defaults give.
    pub fn new(args: &Args) -> Self {
        let schedule = match (args.paper, args.model) {
            (true, _) => PAPER,
            (false, ModelName::Gated) => QUICK_GATED,
            (false, _) => QUICK,
        };
        let images = args.images.or(schedule.images);
        let (epochs, end_to_end) = match (
            args.epochs.or(args.bypass.then_some(schedule.epochs)),
            args.end_to_end,
            &args.start,
        ) {
            (Some(epochs), end_to_end, _) => (epochs, end_to_end),
            (None, Some(end_to_end), Some(_)) => (0, Some(end_to_end)),
            (None, None, None) if args.model.is_latent() && schedule.end_to_end > 0 => {
                (schedule.epochs - schedule.end_to_end, Some(schedule.end_to_end))
            }
            (None, end_to_end, _) => (schedule.epochs, end_to_end),
        };
        Self {
            model: args.model.config().name(),
            paper: args.paper,
            data: args.data.clone(),
            kind: args.kind.as_ref().map(kind_name),
            images: images.or_else(|| args.data.is_empty().then_some(ALL_DEAD_LEAVES)),
            size: args.size,
            patches: args.patches,
            sigma: args.sigma.map(|sigma| sigma.to_string()),
            ae_epochs: args.ae_epochs.or(args.epochs).unwrap_or(schedule.ae_epochs),
            epochs,
            end_to_end,
            batch: args.batch.unwrap_or(schedule.batch),
            bypass: args.bypass,
            learning_rate: args.learning_rate,
            set: args.set.clone(),
            start: args.start.clone(),
            seed: args.seed,
            device: args.device.name.to_string(),
        }
    }

    /// The recipe for `config`, with the changes that the arguments ask for.
    ///
    /// # Errors
    /// The recipe has no such phase or field, or a value does not fit its field.
    pub fn recipe(&self, config: ModelConfig) -> Result<Recipe> {
        let mut recipe = match self.paper {
            true => Recipe::paper(config),
            false => Recipe::tuned(config),
        };
        if self.bypass {
            recipe = recipe.without_automaton()?;
        }
        if self.end_to_end.is_some() && recipe.end_to_end.is_none() {
            return Err(format!("`--end-to-end`: {} has no such phase", self.model).into());
        }
        if let Some(rate) = self.learning_rate {
            recipe.nca.adam.learning_rate = rate;
            if let Some(config) = &mut recipe.end_to_end {
                config.adam.learning_rate = rate;
            }
        }
        for set in &self.set {
            let (field, text) = set.split_once('=').unwrap_or((set, ""));
            let mut changed = serde_json::to_value(&recipe)?;
            let place = changed
                .pointer_mut(&format!("/{}", field.replace('.', "/")))
                .ok_or_else(|| format!("`--set {set}`: the recipe has no field `{field}`"))?;
            *place = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_string()));
            recipe = serde_json::from_value(changed).map_err(|error| format!("`--set {set}`: {error}"))?;
        }
        recipe.check()?;
        Ok(recipe)
    }

    /// The command that trains this model, with every default spelt out and paths reduced to their last
    /// names. Model files record it, and may be shared.
    pub fn command(&self, task: &Task) -> String {
        let mut words = vec![task.name.to_string()];
        let last = |text: &str| {
            let last = Path::new(text).file_name().map(|last| last.to_string_lossy());
            last.map_or(text.to_string(), |last| last.into_owned())
        };
        if let Ok(Value::Object(settings)) = serde_json::to_value(self) {
            for (name, value) in settings {
                match value {
                    Value::Null | Value::Bool(false) => {}
                    Value::Bool(true) => words.push(format!("--{name}")),
                    Value::String(text) => words.push(format!("--{name} {}", last(&text))),
                    // Values of fields may hold a slash.
                    Value::Array(many) if name == "data" => words.extend(
                        many.iter()
                            .filter_map(Value::as_str)
                            .map(|one| format!("--{name} {}", last(one))),
                    ),
                    Value::Array(many) => words.extend(
                        many.iter()
                            .filter_map(Value::as_str)
                            .map(|one| format!("--{name} {one}")),
                    ),
                    value => words.push(format!("--{name} {value}")),
                }
            }
        }
        words.join(" ")
    }
}

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Folder => "folder".into(),
        Kind::Pairs => "pairs".into(),
        Kind::Cifar => "cifar".into(),
        Kind::PairFolders { clean, damaged } => format!("{}:{}", clean.display(), damaged.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restoration::DENOISE;

    fn settings(words: &[&str]) -> Result<Settings> {
        let words = ["denoise"].iter().chain(words).copied();
        let args = Args::from_words(&DENOISE, words)?;
        Ok(Settings::new(&args))
    }

    #[test]
    fn epochs_follow_from_what_is_given() -> Result<()> {
        for (words, expected) in [
            (&[][..], (10, 10, None)),
            (&["--model", "latent-nafca"], (10, 4, Some(4))),
            (&["--model", "vitca"], (10, 8, None)),
            (&["--paper"], (20, 20, None)),
            (&["--epochs", "3"], (3, 3, None)),
            (&["--epochs", "3", "--end-to-end", "2"], (3, 3, Some(2))),
            (
                &["--model", "latent-nafca", "--start", "a", "--end-to-end", "2"],
                (10, 0, Some(2)),
            ),
        ] {
            let settings = settings(words)?;
            let found = (settings.ae_epochs, settings.epochs, settings.end_to_end);
            assert_eq!(found, expected, "{words:?}");
        }
        Ok(())
    }

    #[test]
    fn the_command_names_no_folders() -> Result<()> {
        let settings = settings(&[
            "--data",
            "some/folder/photos",
            "--set",
            "nca.average=0.9",
            "--seed",
            "3",
        ])?;
        assert_eq!(
            settings.command(&DENOISE),
            "denoise --ae-epochs 10 --batch 8 --data photos --device cpu --epochs 10 --images 1000 \
             --model gated --seed 3 --set nca.average=0.9 --size 32"
        );
        Ok(())
    }

    #[test]
    fn a_field_of_the_recipe_is_changed() -> Result<()> {
        let recipe =
            |set: &str| -> Result<Recipe> { settings(&["--set", set])?.recipe(ModelConfig::latent_nafca()) };
        assert_eq!(recipe("nca.pool=7")?.nca.pool, 7);
        assert!(recipe("nca.puddle=7").is_err());
        assert!(recipe("nca.pool=deep").is_err());
        for set in [
            "nca.adam.learning_rate=-0.01",
            "end_to_end.steps={\"start\":0,\"end\":1}",
            "autoencoder.eq=-1",
        ] {
            assert!(recipe(set).is_err(), "{set}");
        }
        Ok(())
    }
}
