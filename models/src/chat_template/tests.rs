//! Against transformers (models/tests/text/make_templates.py), and against templates that mean harm.

mod jinja;

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::json;

use super::*;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text")
}

fn golden_file(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(directory().join(name)).unwrap()).unwrap()
}

fn goldens() -> Value {
    golden_file("templates.json")
}

fn special_tokens_of(goldens: &Value) -> SpecialTokens {
    let mut tokens = SpecialTokens::default();
    tokens.update(goldens["special_tokens"].as_object().unwrap(), Path::new("goldens")).unwrap();
    tokens
}

fn special_tokens() -> SpecialTokens {
    special_tokens_of(&goldens())
}

fn request(case: &Value) -> ChatRequest {
    ChatRequest {
        messages: case["messages"].as_array().unwrap().clone(),
        tools: case["tools"].as_array().cloned(),
        add_generation_prompt: case["add_generation_prompt"] == true,
        continue_final_message: case["continue_final_message"] == true,
        kwargs: case["kwargs"].as_object().cloned().unwrap_or_default(),
    }
}

fn hello() -> ChatRequest {
    ChatRequest { messages: vec![json!({"role": "user", "content": "hello"})], ..ChatRequest::default() }
}

fn render(template: &str, request: &ChatRequest) -> Result<String, ChatTemplateError> {
    ChatTemplate::from_source(template, special_tokens()).unwrap().render(request)
}

#[test]
fn agrees_with_transformers() {
    let goldens = goldens();
    let cases = goldens["cases"].as_array().unwrap();
    assert!(cases.len() >= 60);
    for (index, case) in cases.iter().enumerate() {
        let name = case["template"].as_str().unwrap();
        let result = render(goldens["templates"][name].as_str().unwrap(), &request(case));
        assert_agrees(result, case, &format!("case {index}, template {name}"));
    }
}

/// The result is what transformers gave: a text, the template's own refusal, or any other failure.
fn assert_agrees(result: Result<String, ChatTemplateError>, case: &Value, context: &str) {
    match (result, &case["text"], &case["raised"]) {
        (Ok(text), Value::String(expected), _) => assert_eq!(&text, expected, "{context}"),
        (Err(ChatTemplateError::Raised(message)), _, Value::String(expected)) => {
            assert_eq!(&message, expected, "{context}");
        }
        (Err(ChatTemplateError::Render(_) | ChatTemplateError::Request(_)), Value::Null, Value::Null) => {
            assert_eq!(case["fails"], true, "{context}");
        }
        (result, ..) => panic!("{context}: {result:?}"),
    }
}

/// Templates in the formats of many vendors (models/tests/text/make_vendor_templates.py), all by one clock.
#[test]
fn vendors_formats_agree_with_transformers() {
    let goldens = golden_file("vendor_templates.json");
    let now = goldens["now"].as_u64().unwrap();
    let mut templates = HashMap::new();
    for case in goldens["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let template = templates.entry(name).or_insert_with(|| {
            let read = || fs::read_to_string(directory().join(format!("templates/{name}.jinja"))).unwrap();
            let text = Builtin::of(name).map_or_else(read, |builtin| builtin.template.into());
            let mut template = ChatTemplate::from_source(&text, special_tokens_of(&goldens)).unwrap();
            let strftime = move |format: &str| strftime::strftime(format, now).unwrap();
            template.environment.add_function("strftime_now", strftime);
            template
        });
        let conversation = case["conversation"].as_str().unwrap();
        let mut asked = goldens["variants"][case["variant"].as_u64().unwrap() as usize].clone();
        asked["messages"] = goldens["conversations"][conversation].clone();
        let context = format!("{name}, {conversation}, variant {}", case["variant"]);
        assert_agrees(template.render(&request(&asked)), case, &context);
    }
    assert!(templates.len() >= 16 && Builtin::names().all(|name| templates.contains_key(name)));
}

#[test]
fn built_in_templates_are_chosen_by_name() {
    let choose = |name: &str| ChatTemplate::choose(Path::new(name), &ModelSource::Demo);
    let ask = |name: &str, request: &ChatRequest| choose(name).unwrap().render(request);
    let rounds = [("user", "1+1?"), ("assistant", "2"), ("user", "好")]
        .map(|(role, content)| json!({"role": role, "content": content}));
    let request = ChatRequest { messages: rounds.to_vec(), add_generation_prompt: true, ..hello() };
    assert_eq!(
        ask("chatglm2", &request).unwrap(),
        "[gMASK]sop[Round 1]\n\n问：1+1?\n\n答：2\n\n[Round 2]\n\n问：好\n\n答："
    );
    assert_eq!(
        ask("chatglm3", &request).unwrap(),
        "[gMASK]sop<|user|>\n 1+1?<|assistant|>\n 2<|user|>\n 好<|assistant|>"
    );
    assert!(
        ask("internlm", &request)
            .unwrap()
            .ends_with("<|User|>:1+1?<eoh>\n<|Bot|>:2<eoa>\n<|User|>:好<eoh>\n<|Bot|>:")
    );
    assert!(ask("skywork", &request).unwrap().ends_with("[USER]1+1?[SEP][BOT]2[SEP][USER]好[SEP][BOT]"));
    let one = ChatRequest { add_generation_prompt: true, ..hello() };
    assert_eq!(ask("fingpt", &one).unwrap(), "Instruction: hello\nAnswer: ");
    assert!(matches!(ask("fingpt", &request), Err(ChatTemplateError::Raised(_))));
    assert_eq!(choose("internlm").unwrap().end_tokens(), ["<eoa>"]);
    let neither = choose("nowhere.jinja").unwrap_err().to_string();
    assert!(neither.contains("nowhere.jinja") && neither.contains("chatglm3"), "{neither}");
}

#[test]
fn reserved_names_are_refused() {
    for name in
        ["messages", "tools", "add_generation_prompt", "eos_token", "raise_exception", "range", "namespace"]
    {
        let mut request = hello();
        request.kwargs.insert(name.into(), json!(1));
        let error = render("{{ messages }}", &request).unwrap_err();
        assert!(matches!(error, ChatTemplateError::ReservedName(ref refused) if refused == name), "{error}");
    }
}

#[test]
fn fromjson_and_strftime() {
    let text = r#"{% set x = '{"b": [1, 2.5], "a": null}' | fromjson %}{{ x.b[1] }} {{ x | tojson }}"#;
    assert_eq!(render(text, &hello()).unwrap(), r#"2.5 {"b": [1, 2.5], "a": null}"#);
    assert!(render("{{ '{' | fromjson }}", &hello()).is_err());
    assert_eq!(render("{{ strftime_now('%Y') | length }}", &hello()).unwrap(), "4");
    assert!(render("{{ strftime_now('%!') }}", &hello()).unwrap_err().to_string().contains("%!"));
}

/// No template may crash us, take long or take much memory.
#[test]
fn hostile_templates_are_harmless() {
    let double = "{% set ns = namespace(x=['a' * 1000]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    let big = "{% set x = 'a' * 1000000 %}";
    let growing =
        "{% set ns = namespace(a=[1]) %}{% for i in range(40) %}{% set ns.a = ns.a + ns.a %}{% endfor %}";
    let deep = "{% set ns = namespace(x=[]) %}{% for i in range(10000) %}{% set ns.x = [[[[[[[[[[ns.x]]]]]]]]]] %}{% endfor %}";
    let templates = [
        "{{ ''.__class__ }}".to_string(),
        "{{ ''.__class__.__mro__[1].__subclasses__() }}".into(),
        "{{ messages.__init__.__globals__ }}".into(),
        "{{ raise_exception.__globals__['os'].popen('id').read() }}".into(),
        "{{ self.__init__ }}{{ cycler }}{{ lipsum }}{{ config }}".into(),
        "{% include '/etc/passwd' %}".into(),
        "{% import 'os' as os %}".into(),
        "{% extends 'default' %}".into(),
        "{% include 'default' %}".into(),
        "{% for i in range(1000000000) %}{% endfor %}".into(),
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".into(),
        "{% for i in range(100000) %}{% for j in range(100000) %}xxxxxxxxxxxxxxxx{% endfor %}{% endfor %}".into(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".into(),
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}".into(),
        "{% for x in [[[]]] recursive %}{{ loop([[x]]) }}{% endfor %}".into(),
        "{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}".into(),
        "{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x * 2 %}{% endfor %}".into(),
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}".into(),
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}".into(),
        format!("{growing}{{{{ ns.a | length }}}}"),
        format!("{growing}{{{{ ns.a[-1] }}}}"),
        "{% set ns = namespace(a=[]) %}{% for i in range(100000) %}{% set ns.a = ns.a + [i] %}{% endfor %}{{ ns.a | length }}".into(),
        "{{ 'a' * 1000000000000 }}".into(),
        "{{ 10 ** 1000000000 }}".into(),
        "{{ '{:1000000000}'.format(1) }}".into(),
        "{{ '{:>1000000000}{:.999999999999999999999}'.format(1, 2.0) }}".into(),
        "{{ '%1000000000d' | format(1) }}".into(),
        format!("{big}{{{{ x.replace('', x) }}}}"),
        format!("{big}{{{{ x | replace('a', x) }}}}"),
        format!("{big}{{{{ ''.join([x] * 100000) }}}}"),
        format!("{big}{{{{ ([x] * 100000) | join }}}}"),
        format!("{big}{{{{ ([x] * 100000) | join(x) }}}}"),
        format!("{big}{{{{ ([x] * 100000) | sum(start='') }}}}"),
        format!("{big}{{{{ '{{0}}{{0}}{{0}}{{0}}'.format(x * 90) }}}}"),
        format!("{double}{{{{ ns.x }}}}"),
        format!("{double}{{% set y %}}{{{{ ns.x }}}}{{% endset %}}"),
        format!("{double}{{{{ ns.x | tojson }}}}"),
        format!("{double}{{{{ [ns.x] | join }}}}"),
        format!("{double}{{{{ ''.join(ns.x) }}}}"),
        format!("{double}{{{{ '{{}}'.format(ns.x) }}}}"),
        format!("{double}{{{{ raise_exception(ns.x) }}}}"),
        "{{ [1, 2] | tojson(indent=100000000000) }}".into(),
        "{{ 1 | tojson(separators=['x'] * 100000000) }}".into(),
        "{{ 'x' | center(1000000000000) }}{{ 'x'.ljust(1000000000000) }}".into(),
        "{{ 'x'.center(1000000000000, '好') }}".into(),
        "{{ '7'.zfill(1000000000000) }}".into(),
        "{{ '%1000000000d' % 1 }}".into(),
        "{{ '%*d' % (1000000000, 1) }}".into(),
        "{{ '%.99999999999999999999f' % 1.5 }}".into(),
        format!("{big}{{{{ '%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s' % ((x,) * 20) }}}}"),
        "{{ ('%%' * 8000000) % () }}".into(),
        "{{ ('\n' * 100000) | indent(100000, true, true) }}".into(),
        "{{ 'a\nb' | indent(1000000000000) }}".into(),
        format!("{big}{{{{ ('a\n' * 100000) | indent(x) }}}}"),
        format!("{big}{{{{ x | wordwrap(1) | length }}}}"),
        format!("{big}{{{{ (x ~ ' b') | wordwrap(1, wrapstring=x) }}}}"),
        format!("{big}{{{{ x | wordwrap(2, break_on_hyphens=false) | length }}}}"),
        "{{ ('a-b ' * 4000000) | wordwrap(3) | length }}".into(),
        format!("{big}{{{{ x | truncate(1000000000000000000, true, x) | length }}}}"),
        format!("{big}{{{{ (x | replace('a', '<')) | striptags | length }}}}"),
        format!("{big}{{{{ (x | replace('a', '&')) | striptags | length }}}}"),
        format!("{big}{{{{ (x | replace('a', '&')) | urlencode | length }}}}"),
        "{{ ([['', '']] * 100000000) | urlencode | length }}".into(),
        "{{ ([''] * 100000000) | join | length }}".into(),
        "{{ ([''] * 100000000) | map('trim') | list | length }}".into(),
        "{{ ([1] * 100000000) | groupby('x') | length }}{{ ([1] * 100000000) | sort }}".into(),
        "{{ ([1] * 100000000).index(2) }}".into(),
        "{{ ([1] * 100000000).count(2) }}".into(),
        "{{ dict([[1, 2]] * 100000000) | length }}".into(),
        "{{ range(9) | batch(1000000000000, 'x') }}".into(),
        "{{ range(9) | slice(1000000000000, 'x') }}".into(),
        "{{ 10 | round(1000000000) }}{{ '1' * 100000 | int }}{{ ('1' * 100000) | int | string | length }}".into(),
        format!("{deep}{{{{ ns.x | tojson }}}}"),
        format!("{deep}{{{{ ns.x }}}}"),
        format!("{deep}{{{{ ns.x ~ '' }}}}"),
        format!("{deep}{{{{ ns.x == [ns.x] }}}}"),
        format!("{deep}{deep}{deep}"),
        "{{ '[' * 100000 | fromjson }}".into(),
        format!("{{{{ ('{}') | fromjson }}}}", "[".repeat(100_000)),
    ];
    for template in templates {
        let start = Instant::now();
        if let Ok(text) = render(&template, &hello()) {
            assert!(text.len() < 1_000_000, "{} bytes of {template}", text.len());
            assert!(!text.contains("root:") && !text.contains("class"), "{text}");
        }
        // A second for an optimised build; the tests' is slower.
        assert!(start.elapsed() < Duration::from_secs(4), "{:?} for {template}", start.elapsed());
    }
}

/// The budget must never meet an honest conversation.
#[test]
fn long_conversations_fit_the_budget() {
    let goldens = goldens();
    let template = goldens["templates"]["thinking"].as_str().unwrap();
    let turn = [
        json!({"role": "user", "content": "q".repeat(2000)}),
        json!({"role": "assistant", "content": format!("<think>{}</think>{}", "t".repeat(4000), "a".repeat(4000))}),
    ];
    let tool = json!({"type": "function", "function": {"name": "f", "description": "d".repeat(4000)}});
    let request =
        ChatRequest { messages: vec![turn; 1000].concat(), tools: Some(vec![tool; 100]), ..hello() };
    assert!(render(template, &request).unwrap().len() > 6_000_000);
}

#[test]
fn broken_templates_are_errors() {
    let nested = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    let large = "x".repeat(MAX_TEMPLATE_BYTES + 1);
    for template in ["{% if %}", "{{ 'a }}", "{% endfor %}", "{{ x | nosuchfilter( }}", &nested, &large] {
        let error = ChatTemplate::from_source(template, SpecialTokens::default()).unwrap_err();
        assert!(matches!(error, LoadError::Template { .. }), "{error}");
    }
}

#[test]
fn loads_from_the_files_of_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let source = ModelSource::Directory(dir.path().into());
    let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
    let rendered = |tools: Option<Vec<Value>>| {
        let template = ChatTemplate::load(&source).unwrap().unwrap();
        template.render(&ChatRequest { tools, ..hello() }).unwrap()
    };
    let with_tools = || rendered(Some(vec![json!({})]));
    assert!(ChatTemplate::load(&source).unwrap().is_none());

    write(
        "tokenizer_config.json",
        r#"{"chat_template": "one {{ eos_token }}", "eos_token": {"content": "</s>"}}"#,
    );
    assert_eq!(rendered(None), "one </s>");

    let named = [
        json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "two"}]),
        json!({"tool_use": "tools", "default": "two", "rag": "x"}),
    ];
    for templates in named {
        write("tokenizer_config.json", &json!({"chat_template": templates}).to_string());
        assert_eq!((rendered(None), with_tools()), ("two".into(), "tools".into()));
    }

    write("chat_template.json", r#"{"chat_template": "three"}"#);
    assert_eq!((rendered(None), with_tools()), ("two".into(), "tools".into()));
    let config = fs::read_to_string(dir.path().join("tokenizer_config.json")).unwrap();
    write("tokenizer_config.json", "{}");
    assert_eq!((rendered(None), with_tools()), ("three".into(), "three".into()));
    assert_eq!(ChatTemplate::file(&source), "chat_template.json");
    write("tokenizer_config.json", &config);

    write("chat_template.jinja", "four {{ eos_token }}\n");
    write("special_tokens_map.json", r#"{"eos_token": "<end>"}"#);
    assert_eq!(with_tools(), "four <end>");
    assert_eq!(ChatTemplate::file(&source), "chat_template.jinja");

    fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/tool_use.jinja", "five");
    assert_eq!((rendered(None), with_tools()), ("four <end>".into(), "five".into()));
    for file in ["chat_template.jinja", "chat_template.json"] {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    assert_eq!((rendered(None), with_tools()), ("two".into(), "five".into()));

    write("other.jinja", "six {{ eos_token }}");
    let other = ChatTemplate::from_file(&dir.path().join("other.jinja"), &source).unwrap();
    assert_eq!(other.render(&hello()).unwrap(), "six <end>");
    assert!(matches!(
        ChatTemplate::from_file(&dir.path().join("none"), &source),
        Err(LoadError::Missing { .. })
    ));

    for wrong in ["{}", r#"{"chat_template": 1}"#, r#"{"chat_template": [{"name": "rag", "template": "x"}]}"#]
    {
        write("tokenizer_config.json", wrong);
        assert!(
            matches!(ChatTemplate::load(&source), Err(LoadError::Config { ref key, .. }) if key == "chat_template")
        );
    }
    write("tokenizer_config.json", r#"{"chat_template": "{% if %}"}"#);
    assert!(ChatTemplate::load(&source).unwrap_err().to_string().contains("tokenizer_config.json"));
    write("tokenizer_config.json", r#"{"chat_template": "fine"}"#);
    write("additional_chat_templates/tool_use.jinja", "{% if %}");
    assert_eq!(rendered(None), "fine");
    let template = ChatTemplate::load(&source).unwrap().unwrap();
    let error = template.render(&ChatRequest { tools: Some(vec![]), ..hello() }).unwrap_err();
    assert!(error.to_string().contains("tool_use.jinja"), "{error}");
}
