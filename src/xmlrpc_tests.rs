//! Expected texts are what Python's xmlrpc.client writes for the same values.

use proptest::prelude::*;

use super::*;

fn member(name: &str, value: Value) -> (String, Value) {
    (name.to_owned(), value)
}

#[test]
fn a_reply_is_laid_out_as_python_does_it() {
    let value = Value::Struct(vec![
        member("name", "a&<b>".into()),
        member("n", Value::Int(-5)),
        member("ok", true.into()),
        member("list", Value::Array(vec![Value::Int(1), "zwei".into(), Value::Array(vec![]), Value::Struct(vec![])])),
        member("d", Value::Double(1.5)),
    ]);
    let expected = "<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value><struct>\n<member>\n<name>name</name>\n\
        <value><string>a&amp;&lt;b&gt;</string></value>\n</member>\n<member>\n<name>n</name>\n<value><int>-5</int></value>\n\
        </member>\n<member>\n<name>ok</name>\n<value><boolean>1</boolean></value>\n</member>\n<member>\n<name>list</name>\n\
        <value><array><data>\n<value><int>1</int></value>\n<value><string>zwei</string></value>\n<value><array><data>\n\
        </data></array></value>\n<value><struct>\n</struct></value>\n</data></array></value>\n</member>\n<member>\n\
        <name>d</name>\n<value><double>1.5</double></value>\n</member>\n</struct></value>\n</param>\n</params>\n\
        </methodResponse>\n";
    assert_eq!(encode_reply(&Ok(value.clone())), expected);
    assert_eq!(decode_reply(expected.as_bytes()), Ok(Ok(value)));
}

#[test]
fn a_fault_is_laid_out_as_python_does_it() {
    let fault = Fault { code: 10, text: "BAD_NAME: x".into() };
    let expected = "<?xml version='1.0'?>\n<methodResponse>\n<fault>\n<value><struct>\n<member>\n<name>faultCode</name>\n\
        <value><int>10</int></value>\n</member>\n<member>\n<name>faultString</name>\n\
        <value><string>BAD_NAME: x</string></value>\n</member>\n</struct></value>\n</fault>\n</methodResponse>\n";
    assert_eq!(encode_reply(&Err(fault.clone())), expected);
    assert_eq!(decode_reply(expected.as_bytes()), Ok(Err(fault)));
}

#[test]
fn a_call_is_laid_out_as_python_does_it() {
    let expected = "<?xml version='1.0'?>\n<methodCall>\n<methodName>supervisor.startProcess</methodName>\n<params>\n\
        <param>\n<value><string>a:b</string></value>\n</param>\n<param>\n<value><boolean>1</boolean></value>\n</param>\n\
        </params>\n</methodCall>\n";
    assert_eq!(encode_call("supervisor.startProcess", &["a:b".into(), true.into()]), expected);
    assert_eq!(
        encode_call("supervisor.getState", &[]),
        "<?xml version='1.0'?>\n<methodCall>\n<methodName>supervisor.getState</methodName>\n<params>\n</params>\n</methodCall>\n"
    );
}

fn params(text: &str) -> Result<Vec<Value>, String> {
    let call = format!("<methodCall><methodName>m</methodName><params>{text}</params></methodCall>");
    decode_call(call.as_bytes()).map(|call| call.params).map_err(|why| why.to_string())
}

fn param(value: &str) -> Result<Value, String> {
    params(&format!("<param><value>{value}</value></param>")).map(|mut all| all.remove(0))
}

#[test]
fn each_kind_of_value_is_understood() {
    assert_eq!(param("<int> 12 </int>"), Ok(Value::Int(12)));
    assert_eq!(param("<i4>-2147483648</i4>"), Ok(Value::Int(-2_147_483_648)));
    assert_eq!(param("<boolean>1</boolean>"), Ok(true.into()));
    assert_eq!(param("<boolean>yes</boolean>"), Ok(false.into()));
    assert_eq!(param("<string> a &lt;b&#62;&#x21; </string>"), Ok(" a <b>! ".into()));
    assert_eq!(param("bare <!-- not this --> text"), Ok("bare  text".into()));
    assert_eq!(param(""), Ok("".into()));
    assert_eq!(param("\n <string/>\n "), Ok("".into()));
    assert_eq!(param("<string><![CDATA[<&]]></string>"), Ok("<&".into()));
    assert_eq!(param("<double>2.5</double>"), Ok(Value::Double(2.5)));
    assert_eq!(param("<base64>aGV\nsbG8=</base64>"), Ok("hello".into()));
    assert_eq!(param("<dateTime.iso8601>20260131T12:00:00</dateTime.iso8601>"), Ok("20260131T12:00:00".into()));
    assert_eq!(param("<wonder>x</wonder>"), Ok("x".into()));
    let list = "<array><data><value><int>1</int></value><value>b</value></data></array>";
    assert_eq!(param(list), Ok(Value::Array(vec![Value::Int(1), "b".into()])));
    let twice = "<struct><member><name>a</name><value>1</value></member><member><name>a</name><value>2</value></member></struct>";
    assert_eq!(param(twice).expect("a struct").get("a"), Some(&"2".into()));
}

#[test]
fn a_call_may_have_no_params_a_mark_or_another_encoding() {
    let bare = Call { method: "m".into(), params: vec![] };
    assert_eq!(decode_call(b"\xef\xbb\xbf<methodCall><methodName>m</methodName></methodCall>\n"), Ok(bare));
    let php = b"<?xml version=\"1.0\" encoding=\"iso-8859-1\"?><methodCall><methodName>m</methodName><params>\
        <param><value><string>\xe9</string></value></param></params></methodCall>";
    assert_eq!(decode_call(php).map(|call| call.params), Ok(vec!["é".into()]));
}

#[test]
fn what_is_no_call_is_refused_with_a_reason() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "<methodCall> is missing"),
        (b"hello", "text where it does not belong"),
        (b"<a/>", "<a> in place of <methodCall>"),
        (b"<methodCall>", "ends too early"),
        (b"<methodCall></methodCall>", "no methodName"),
        (b"<methodCall><methodName> </methodName></methodCall>", "no methodName"),
        (b"<methodCall><methodName>m</methodName></methodCall><x/>", "follows the end"),
        (b"<methodCall><methodName>m</methodName></wrong>", "byte"),
        (b"<methodCall><methodName>\xff</methodName></methodCall>", "not UTF-8 at byte 24"),
        (b"<!DOCTYPE x [<!ENTITY a \"b\">]><methodCall/>", "a document type is not allowed"),
    ];
    for (bytes, why) in cases {
        let told = decode_call(bytes).expect_err("refused").to_string();
        let found = told.contains(why) || (bytes.is_empty() && told.contains("too early"));
        assert!(found, "{}: {told}", String::from_utf8_lossy(bytes));
    }
    for value in [
        "<int>x</int>",
        "<int>99999999999999999999</int>",
        "<string>&evil;</string>",
        "a<int>1</int>",
        "<base64>*</base64>",
    ] {
        assert!(param(value).is_err(), "{value}");
    }
}

#[test]
fn bombs_are_refused_before_they_grow() {
    let deep = format!("{}1{}", "<array><data><value>".repeat(100), "</value></data></array>".repeat(100));
    assert!(param(&deep).expect_err("refused").contains("deep"));
    let endless = "<array><data><value>".repeat(100_000);
    assert!(param(&endless).is_err());
    let many = format!("<array><data>{}</data></array>", "<value/>".repeat(MAX_CALL_VALUES));
    assert!(param(&many).expect_err("refused").contains("more than"));
}

#[test]
fn no_text_breaks_a_reply() {
    let reply = encode_reply(&Ok("a\0b\x1b[0m\r\n\u{fffe}é\u{1f600}".into()));
    assert!(reply.contains("a\u{fffd}b\u{fffd}[0m\r\n\u{fffd}é\u{1f600}"));
    assert!(decode_reply(reply.as_bytes()).is_ok());
    let large = encode_reply(&Ok(Value::Int(4 << 30)));
    assert!(large.contains("<int>2147483647</int>"));
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(|n| Value::Int(n.into())),
        any::<bool>().prop_map(Value::Bool),
        "[ -~äß\n]{0,20}".prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::vec(("[a-z]{1,8}", inner), 0..5).prop_map(Value::Struct),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(value in values(), code in any::<i32>(), text in "[ -~]{0,30}") {
        prop_assert_eq!(decode_reply(encode_reply(&Ok(value.clone())).as_bytes()), Ok(Ok(value.clone())));
        let fault = Fault { code, text };
        prop_assert_eq!(decode_reply(encode_reply(&Err(fault.clone())).as_bytes()), Ok(Err(fault)));
        let call = decode_call(encode_call("a.b", std::slice::from_ref(&value)).as_bytes());
        prop_assert_eq!(call, Ok(Call { method: "a.b".into(), params: vec![value] }));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode_call(&bytes);
        let _ = decode_reply(&bytes);
    }

    #[test]
    fn a_damaged_call_never_panics(value in values(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = encode_call("a.b", &[value]).into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode_call(&bytes);
        let _ = decode_call(&bytes[..at]);
    }
}
