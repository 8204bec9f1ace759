//! Words and pairs as Python's shlex makes them: `command=` is split like a shell would, `environment=` is a list of
//! `KEY="value"` pairs (reference/supervisord.md §1.4, §2.3). Pure text to text.

/// Where the lexer stands.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Between,
    Word,
    Quote(char),
    /// Behind a backslash, in a word (`None`) or in a quote.
    Escape(Option<char>),
}

/// Splits a command line: quotes and backslashes as in a shell, nothing is expanded, no comments.
pub fn words(text: &str) -> Result<Vec<String>, &'static str> {
    lex(text, true)
}

/// The pairs of an `environment=`. The separator between two pairs is any one token, a comma by custom.
pub fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let tokens = lex(text, false)?;
    let mut pairs = Vec::new();
    for part in tokens.chunks(4) {
        match part {
            [key, equals, value] | [key, equals, value, _] if equals == "=" => pairs.push((key.clone(), value.clone())),
            _ => return Err(format!("Unexpected end of key/value pairs in value '{text}'")),
        }
    }
    Ok(pairs)
}

/// shlex in its POSIX mode. With `whole_words` only white space ends a word; otherwise whatever is no word character
/// is a token of its own, and `#` begins a comment.
fn lex(text: &str, whole_words: bool) -> Result<Vec<String>, &'static str> {
    let is_word = |c: char| {
        whole_words || c.is_ascii_alphanumeric() || "_/.+-():".contains(c) || (0xc0..=0xff).contains(&u32::from(c))
    };
    let is_comment = |c: char| c == '#' && !whole_words;
    let mut tokens = Vec::new();
    let (mut token, mut quoted, mut state) = (String::new(), false, State::Between);
    let mut chars = text.chars().peekable();
    loop {
        let next = chars.peek().copied();
        // Whether the word ends before `next`, which is then looked at again.
        let ends = match (state, next) {
            (State::Between | State::Word, None) => true,
            (State::Quote(_), None) => return Err("No closing quotation"),
            (State::Escape(_), None) => return Err("No escaped character"),
            (State::Word, Some(c)) if c.is_ascii_whitespace() || is_comment(c) => true,
            (State::Between | State::Word, Some('\\')) => {
                state = State::Escape(None);
                false
            }
            (State::Between | State::Word, Some(quote @ ('"' | '\''))) => {
                (quoted, state) = (true, State::Quote(quote));
                false
            }
            (State::Between, Some(c)) if c.is_ascii_whitespace() => false,
            (State::Between, Some(c)) if is_comment(c) => {
                while chars.next_if(|&c| c != '\n').is_some() {}
                continue;
            }
            (State::Between | State::Word, Some(c)) if is_word(c) => {
                token.push(c);
                state = State::Word;
                false
            }
            (State::Between, Some(c)) => {
                tokens.push(c.to_string());
                false
            }
            (State::Word, Some(_)) => true,
            (State::Quote(quote), Some(c)) => {
                match c {
                    c if c == quote => state = State::Word,
                    '\\' if quote == '"' => state = State::Escape(Some(quote)),
                    c => token.push(c),
                }
                false
            }
            (State::Escape(inside), Some(c)) => {
                if inside.is_some_and(|quote| c != '\\' && c != quote) {
                    token.push('\\');
                }
                token.push(c);
                state = inside.map_or(State::Word, State::Quote);
                false
            }
        };
        if !ends {
            chars.next();
            continue;
        }
        if !token.is_empty() || quoted {
            tokens.push(std::mem::take(&mut token));
        }
        (quoted, state) = (false, State::Between);
        if next.is_none() {
            return Ok(tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Every expectation was seen with Python's shlex.split(text).
    #[test]
    fn a_command_is_split_as_a_shell_would() {
        let split = |text| words(text).map(|w| w.join("|"));
        assert_eq!(split("/bin/sh -c \"a 'b' c\""), Ok("/bin/sh|-c|a 'b' c".into()));
        assert_eq!(split("a\\ b 'c\\d' \"e\\\"f\\g\""), Ok("a b|c\\d|e\"f\\g".into()));
        assert_eq!(split("a#b # c"), Ok("a#b|#|c".into()));
        assert_eq!(split("x '' \"\"y"), Ok("x||y".into()));
        assert_eq!(split(" \n\t "), Ok(String::new()));
        assert_eq!(split("a 'b"), Err("No closing quotation"));
        assert_eq!(split("a\\"), Err("No escaped character"));
    }

    #[test]
    fn environment_pairs_may_be_quoted_spaced_and_broken_over_lines() {
        let read = |text| pairs(text).map(|p| p.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("|"));
        assert_eq!(read("A=\"x,y\",B='s q',C=p/a:1.2-3"), Ok("A=x,y|B=s q|C=p/a:1.2-3".into()));
        assert_eq!(read("A = \"1\",\nB=\"2\","), Ok("A=1|B=2".into()));
        assert_eq!(read("A=a\"b c\"d,B=\"\""), Ok("A=ab cd|B=".into()));
        assert_eq!(read("A=\"say \\\"hi\\\" \\n\""), Ok("A=say \"hi\" \\n".into()));
        assert_eq!(read("A=b\\,c # rest"), Ok("A=b,c".into()));
        assert_eq!(read(""), Ok(String::new()));
        for bad in ["A", "A=", "A=\"1\",NOVALUE"] {
            assert_eq!(read(bad), Err(format!("Unexpected end of key/value pairs in value '{bad}'")));
        }
        // Whatever follows an unquoted blank is lost, as it always was.
        assert_eq!(read("A=b c,B=d"), Err("Unexpected end of key/value pairs in value 'A=b c,B=d'".into()));
        assert_eq!(read("A=b c"), Ok("A=b".into()));
        assert_eq!(read("A=\"b"), Err("No closing quotation".into()));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ab='\"\\\\#, \n]{0,40}") {
            let _ = (words(&text), pairs(&text));
        }

        #[test]
        fn a_quoted_value_comes_out_as_it_went_in(values in prop::collection::vec("[ -~]{0,20}", 1..6)) {
            let text: Vec<String> = values.iter().enumerate()
                .map(|(n, v)| format!("K{n}=\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\""))).collect();
            let read = pairs(&text.join(",")).unwrap();
            prop_assert_eq!(read.into_iter().map(|(_, v)| v).collect::<Vec<_>>(), values);
        }
    }
}
