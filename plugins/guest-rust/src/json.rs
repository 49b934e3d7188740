//! One field of a JSON object, without building the whole.

use std::borrow::Cow;

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number.
    Number(f64),
    /// A string, without its escapes.
    Text(Cow<'a, str>),
    /// An array or object, as it stands.
    Compound(&'a str),
}

/// The field `name` of the object that `json` is, at its top level.
///
/// `Ok(None)` when there is no such field; the last one wins where there are several, as in JavaScript. `Err` for
/// anything but one well-formed object.
pub fn top_level<'a>(json: &'a [u8], name: &str) -> Result<Option<Scalar<'a>>, ()> {
    let text = std::str::from_utf8(json).map_err(|_| ())?;
    let mut p = Parser { text, at: 0 };
    let mut found = None;
    p.space();
    p.expect(b'{')?;
    p.space();
    if !p.eat(b'}') {
        loop {
            p.space();
            let key = p.string()?;
            p.space();
            p.expect(b':')?;
            let value = p.value(0)?;
            if key == name {
                found = Some(value);
            }
            if p.eat(b'}') {
                break;
            }
            p.expect(b',')?;
        }
    }
    p.space();
    if p.at == text.len() { Ok(found) } else { Err(()) }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.at += is as usize;
        is
    }

    fn expect(&mut self, byte: u8) -> Result<(), ()> {
        if self.eat(byte) { Ok(()) } else { Err(()) }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// A value with the space around it.
    fn value(&mut self, depth: u32) -> Result<Scalar<'a>, ()> {
        self.space();
        let start = self.at;
        let value = match self.peek().ok_or(())? {
            b'"' => Scalar::Text(self.string()?),
            open @ (b'{' | b'[') => {
                if depth == DEPTH_MAX {
                    return Err(());
                }
                self.at += 1;
                let close = open + 2; // '{' and '}', '[' and ']' are two apart
                self.space();
                while !self.eat(close) {
                    if open == b'{' {
                        self.space();
                        self.string()?;
                        self.space();
                        self.expect(b':')?;
                    }
                    self.value(depth + 1)?;
                    if self.peek() != Some(close) {
                        self.expect(b',')?;
                        self.space();
                        if self.peek() == Some(close) {
                            return Err(());
                        }
                    }
                }
                Scalar::Compound(&self.text[start..self.at])
            }
            _ => {
                while self.peek().is_some_and(|b| !matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')) {
                    self.at += 1;
                }
                match &self.text[start..self.at] {
                    "null" => Scalar::Null,
                    "true" => Scalar::Bool(true),
                    "false" => Scalar::Bool(false),
                    number => Scalar::Number(parse_number(number)?),
                }
            }
        };
        self.space();
        Ok(value)
    }

    fn string(&mut self) -> Result<Cow<'a, str>, ()> {
        self.expect(b'"')?;
        let start = self.at;
        self.at += plain_bytes(&self.text.as_bytes()[start..]);
        match self.peek().ok_or(())? {
            b'"' => {}
            b'\\' => return self.escaped(start),
            _ => return Err(()),
        }
        self.at += 1;
        Ok(Cow::Borrowed(&self.text[start..self.at - 1]))
    }

    fn escaped(&mut self, start: usize) -> Result<Cow<'a, str>, ()> {
        let mut out = self.text[start..self.at].to_owned();
        loop {
            match self.peek().ok_or(())? {
                b'"' => {
                    self.at += 1;
                    return Ok(Cow::Owned(out));
                }
                b'\\' => {
                    let kind = *self.text.as_bytes().get(self.at + 1).ok_or(())?;
                    self.at += 2;
                    out.push(match kind {
                        b'"' | b'\\' | b'/' => kind as char,
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        b'n' => '\n',
                        b'r' => '\r',
                        b't' => '\t',
                        b'u' => self.unicode()?,
                        _ => return Err(()),
                    });
                }
                0..0x20 => return Err(()),
                _ => {
                    let c = self.text[self.at..].chars().next().ok_or(())?;
                    self.at += c.len_utf8();
                    out.push(c);
                }
            }
        }
    }

    fn unicode(&mut self) -> Result<char, ()> {
        let high = self.hex()?;
        if !(0xd800..0xdc00).contains(&high) {
            return char::from_u32(high).ok_or(());
        }
        self.expect(b'\\')?;
        self.expect(b'u')?;
        let low = self.hex()?;
        if !(0xdc00..0xe000).contains(&low) {
            return Err(());
        }
        char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)).ok_or(())
    }

    fn hex(&mut self) -> Result<u32, ()> {
        let digits =
            self.text.get(self.at..self.at + 4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(())?;
        self.at += 4;
        u32::from_str_radix(digits, 16).map_err(|_| ())
    }
}

/// How many bytes come before a quote, a backslash or a control character: eight at a time, which is most of the work
/// of finding a field.
fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let zero_byte = |x: u64| x.wrapping_sub(ONES) & !x & HIGHS;
    let (words, _) = bytes.as_chunks::<8>();
    let plain = |word: &[u8; 8]| {
        let x = u64::from_le_bytes(*word);
        let control = x.wrapping_sub(ONES * 0x20) & !x & HIGHS;
        control | zero_byte(x ^ (ONES * b'"' as u64)) | zero_byte(x ^ (ONES * b'\\' as u64)) == 0
    };
    let skipped = 8 * words.iter().take_while(|w| plain(w)).count();
    let rest = &bytes[skipped..];
    skipped + rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len())
}

/// JSON's numbers only: Rust would read "inf", "+1" and "1." as well.
fn parse_number(text: &str) -> Result<f64, ()> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = digits.bytes().take_while(u8::is_ascii_digit).count();
    let leading_zero = whole > 1 && digits.starts_with('0');
    let rest = &digits[whole..];
    let fraction = match rest.strip_prefix('.') {
        None => 0,
        Some(f) => 1 + f.bytes().take_while(u8::is_ascii_digit).count(),
    };
    let exponent = &rest[fraction..];
    let power = exponent.strip_prefix(['e', 'E']).map(|e| e.strip_prefix(['+', '-']).unwrap_or(e));
    let power_is_good = match power {
        None => exponent.is_empty(),
        Some(p) => !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()),
    };
    if whole == 0 || leading_zero || fraction == 1 || !power_is_good {
        return Err(());
    }
    text.parse().map_err(|_| ())
}

/// Deeper nesting is refused, so that a record cannot exhaust the stack.
const DEPTH_MAX: u32 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_field_is_found_whatever_stands_around_it() {
        let get = |json: &'static str| top_level(json.as_bytes(), "a");
        assert_eq!(get(r#"{"b":{"a":1},"a":"x"}"#), Ok(Some(Scalar::Text("x".into()))));
        assert_eq!(get(r#" { "a" : -1.5e2 } "#), Ok(Some(Scalar::Number(-150.0))));
        assert_eq!(get(r#"{"a":1,"a":null}"#), Ok(Some(Scalar::Null)));
        assert_eq!(get(r#"{"\u0061":"\ud83d\ude00\n\"ü"}"#), Ok(Some(Scalar::Text("😀\n\"ü".into()))));
        assert_eq!(get(r#"{"a":[1,{"a":[]}],"b":true}"#), Ok(Some(Scalar::Compound(r#"[1,{"a":[]}]"#))));
        assert_eq!(get("{}"), Ok(None));
        for bad in [
            "",
            "[]",
            "{",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":01}"#,
            r#"{"a":1}x"#,
            r#"{"a":[1,]}"#,
            r#"{"a":inf}"#,
            r#"{"a":"\ud800"}"#,
        ] {
            assert_eq!(get(bad), Err(()), "{bad}");
        }
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert_eq!(top_level(deep.as_bytes(), "a"), Err(()));
    }
}
