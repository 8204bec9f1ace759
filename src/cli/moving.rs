//! The commands that lead in and out: hob export and hob migrate.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::{Places, daemon_state_dir, settings, usage};
use crate::client::{self, Failed};
use crate::config;
use crate::convert::{self, Asked, Format, Made};
use crate::release::commands;
use crate::sys;

#[derive(Subcommand)]
pub enum Moving {
    /// Write a dotcloud.yml as manifests for Kubernetes, units of systemd or a compose file
    ///
    /// For Kubernetes and compose hob is PID 1 of an image that holds the built homes of all services; with -o its
    /// Containerfile is written too. A service keeps its home in a volume if it keeps ~/data: where its part of the
    /// dotcloud.yml or its scripts mention ~/data, or --data says so. The units of systemd run the same processes without
    /// hob. What the other side has no word for is a comment in the output and a warning. What hob env has set is never
    /// written: the output refers to a Secret or a file that only its owner reads.
    Export {
        format: Words,
        /// The tree with the dotcloud.yml
        #[arg(default_value = ".", value_name = "DIR")]
        dir: PathBuf,
        /// The name of the image [default: that of the application, and :latest]
        #[arg(long, value_name = "NAME", value_parser = image)]
        image: Option<String>,
        /// Write files into this folder instead of to standard output; none that is there is overwritten
        #[arg(short, long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// This service keeps ~/data; may be given several times
        #[arg(long, value_name = "SVC")]
        data: Vec<String>,
        /// This service keeps none, whatever its files mention
        #[arg(long, value_name = "SVC")]
        no_data: Vec<String>,
        /// Where the units of systemd find the built homes [default: /home/dotcloud]
        #[arg(long, value_name = "DIR")]
        home: Option<PathBuf>,
    },
    /// Write a supervisord.conf as a dotcloud.yml and a hob.toml, with a note on every difference
    ///
    /// The programs become the processes of one service, for hob boot --home of the folder with the two files. What is
    /// in the file and what it includes is expanded as it is on this machine now. What hob has no word for is a comment
    /// in the output and a warning. hob also runs the file as it is, under the name of supervisord.
    Migrate {
        /// [default: where supervisord looks, as /etc/supervisor/supervisord.conf]
        file: Option<PathBuf>,
        /// Write the two files into this folder instead of to standard output; none that is there is overwritten
        #[arg(short, long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Words {
    Kubernetes,
    Systemd,
    Compose,
}

pub fn run(command: Moving, places: &Places) -> Result<i32, Failed> {
    match command {
        Moving::Export { format, dir, image, out, data, no_data, home } => {
            let settings = settings(places)?;
            // Only their names, and only those that can be read here.
            let secrets = commands::variables(&daemon_state_dir(places, &settings)).unwrap_or_default();
            let is_own = |name: &String| !name.starts_with("DOTCLOUD_") && !name.starts_with("PORT_");
            let secrets = secrets.into_iter().map(|(name, _)| name).filter(is_own).collect();
            let format = match format {
                Words::Kubernetes => Format::Kubernetes,
                Words::Systemd => Format::Systemd,
                Words::Compose => Format::Compose,
            };
            if home.as_ref().is_some_and(|home| !home.is_absolute()) {
                return Err(usage("--home must be an absolute path: it is where the units run".into()));
            }
            let asked = Asked { dir, image, out: out.clone(), data, no_data, home, secrets };
            let made = convert::export(format, &asked, &settings).map_err(|problems| usage(problems.to_string()))?;
            put(&made, out)
        }
        Moving::Migrate { file, out } => {
            let file = match file {
                Some(file) => file,
                None => found()?,
            };
            match convert::migrate(&file) {
                Ok(made) => put(&made, out),
                Err(problems) => {
                    // As hob check tells them.
                    tell!("{problems}");
                    Ok(2)
                }
            }
        }
    }
}

/// Where supervisord would have found its configuration.
fn found() -> Result<PathBuf, Failed> {
    let places = config::supervisord_conf_places("/usr/bin/supervisord".as_ref());
    let own = sys::user::effective().0;
    config::find_supervisord_conf(&places, own, &mut |why| tell!("warning: {why}")).ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        usage(format!("there is no supervisord.conf in the usual places ({}): name one", places.join(", ")))
    })
}

/// Into the folder, or to standard output; the warnings in either case.
fn put(made: &Made, out: Option<PathBuf>) -> Result<i32, Failed> {
    match out {
        Some(out) => {
            let paths = convert::write(made, &out).map_err(|message| Failed { message, status: 1 })?;
            client::print(&paths.iter().map(|path| format!("{}\n", path.display())).collect::<String>())?;
        }
        None => client::print(&convert::shown(made))?,
    }
    for warning in &made.warnings {
        tell!("warning: {warning}");
    }
    Ok(0)
}

/// A reference of an image as every engine takes it; what it means they find out.
fn image(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    match text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(good) {
        true => Ok(text.to_owned()),
        false => Err("the name of an image is like registry.example.com/hello:1.0".to_owned()),
    }
}
