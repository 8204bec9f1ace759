//! Flags as supervisord and supervisorctl take them: Python's classic getopt. Options end at the first word that is
//! none, long ones may be shortened while unique. Pure.

/// A flag: its letter, its long name, and whether it takes a value.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// `'\0'` if it has only a long name.
    pub short: char,
    /// Empty if it has only a letter.
    pub long: &'static str,
    pub takes_value: bool,
}

/// The flags as they were given, each with its value, and the words that follow them.
pub type Given<'f> = (Vec<(&'f Flag, String)>, Vec<String>);

/// The error is worded as getopt words it, and stands behind `Error: `.
pub fn parse<'f>(flags: &'f [Flag], words: &[String]) -> Result<Given<'f>, String> {
    let mut given = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.as_slice().first().filter(|word| word.len() > 1 && word.starts_with('-')) {
        words.next();
        if word == "--" {
            break;
        }
        match word.strip_prefix("--") {
            Some(long) => given.push(parse_long(flags, long, &mut words)?),
            None => parse_short(flags, &word[1..], &mut words, &mut given)?,
        }
    }
    Ok((given, words.cloned().collect()))
}

fn parse_long<'f>(
    flags: &'f [Flag],
    text: &str,
    words: &mut std::slice::Iter<'_, String>,
) -> Result<(&'f Flag, String), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    let mut fitting = flags.iter().filter(|flag| !flag.long.is_empty() && flag.long.starts_with(name));
    let exact = flags.iter().find(|flag| !flag.long.is_empty() && flag.long == name);
    let flag = match (exact, fitting.next(), fitting.next()) {
        (Some(flag), ..) | (None, Some(flag), None) => flag,
        (None, None, _) => return Err(format!("option --{name} not recognized")),
        (None, Some(_), Some(_)) => return Err(format!("option --{name} not a unique prefix")),
    };
    match (flag.takes_value, value) {
        (true, Some(value)) => Ok((flag, value)),
        (true, None) => match words.next() {
            Some(value) => Ok((flag, value.clone())),
            None => Err(format!("option --{} requires argument", flag.long)),
        },
        (false, None) => Ok((flag, String::new())),
        (false, Some(_)) => Err(format!("option --{} must not have an argument", flag.long)),
    }
}

fn parse_short<'f>(
    flags: &'f [Flag],
    letters: &str,
    words: &mut std::slice::Iter<'_, String>,
    given: &mut Vec<(&'f Flag, String)>,
) -> Result<(), String> {
    for (at, letter) in letters.char_indices() {
        let flag = flags.iter().find(|flag| flag.short == letter && letter != '\0');
        let flag = flag.ok_or_else(|| format!("option -{letter} not recognized"))?;
        if !flag.takes_value {
            given.push((flag, String::new()));
            continue;
        }
        let rest = &letters[at + letter.len_utf8()..];
        let value = match rest.is_empty() {
            false => rest.to_owned(),
            true => words.next().cloned().ok_or_else(|| format!("option -{letter} requires argument"))?,
        };
        given.push((flag, value));
        return Ok(());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag { short: 'c', long: "configuration", takes_value: true },
        Flag { short: 'n', long: "nodaemon", takes_value: false },
        Flag { short: 'k', long: "nocleanup", takes_value: false },
        Flag { short: '\0', long: "minprocs", takes_value: true },
        Flag { short: '?', long: "", takes_value: false },
    ];

    fn shown(words: &str) -> String {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        match parse(FLAGS, &words) {
            Ok((given, rest)) => {
                let name =
                    |flag: &Flag| if flag.long.is_empty() { flag.short.to_string() } else { flag.long.to_owned() };
                let given: Vec<String> = given.iter().map(|(flag, value)| format!("{}={value}", name(flag))).collect();
                format!("{} | {}", given.join(" "), rest.join(" "))
            }
            Err(why) => why,
        }
    }

    // Expected texts are those of Python's getopt.getopt.
    #[test]
    fn flags_are_taken_as_getopt_takes_them() {
        assert_eq!(shown("-c a -n status -k"), "configuration=a nodaemon= | status -k");
        assert_eq!(shown("-nkca x"), "nodaemon= nocleanup= configuration=a | x");
        assert_eq!(shown("--conf=a --nod -- -n"), "configuration=a nodaemon= | -n");
        assert_eq!(shown("--configuration a --minprocs=3"), "configuration=a minprocs=3 | ");
        assert_eq!(shown("- -n"), " | - -n");
        assert_eq!(shown("-?"), "?= | ");
        assert_eq!(shown(""), " | ");
    }

    #[test]
    fn mistakes_are_worded_as_getopt_words_them() {
        assert_eq!(shown("-x"), "option -x not recognized");
        assert_eq!(shown("--bogus"), "option --bogus not recognized");
        assert_eq!(shown("--no"), "option --no not a unique prefix");
        assert_eq!(shown("-c"), "option -c requires argument");
        assert_eq!(shown("--conf"), "option --configuration requires argument");
        assert_eq!(shown("--nodaemon=1"), "option --nodaemon must not have an argument");
        assert_eq!(shown("-é"), "option -é not recognized");
    }
}
