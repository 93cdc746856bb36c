#![no_main]

use std::collections::BTreeMap;

use celerybox_fuzz::is_json;
use celerybox_fuzz::policy::parameters::inherit;
use serde_json::value::RawValue;

type Map = BTreeMap<String, Box<RawValue>>;

// Four lines: the signature a component declares, the arguments of a run, and those that replace one kind of them (which
// kind, the text itself says). What was replaced stays as it is said, and a retry gets no argument that nobody gave.
libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut lines = text.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (signature, args, kwargs, new) = (line(), line(), line(), line());
    let list = |text| serde_json::from_str::<Vec<Box<RawValue>>>(text);
    let map = |text| serde_json::from_str::<Map>(text);
    let (Ok(old_args), Ok(old_kwargs)) = (list(args), map(kwargs)) else {
        return;
    };
    let texts = |map: &Map| -> BTreeMap<String, String> {
        map.iter().map(|(name, value)| (name.clone(), value.get().to_owned())).collect()
    };
    if list(new).is_ok() {
        let (positional, named) = inherit(Some(signature), (args, kwargs), (Some(new.to_owned()), None));
        assert_eq!(positional.as_deref(), Some(new));
        if let Some(named) = named {
            let named = texts(&map(&named).unwrap());
            let old = texts(&old_kwargs);
            assert!(named.len() < old.len());
            assert!(named.iter().all(|(name, value)| old.get(name) == Some(value)));
        }
    } else if let Ok(new_kwargs) = map(new) {
        let (positional, named) = inherit(Some(signature), (args, kwargs), (None, Some(new.to_owned())));
        let named = texts(&map(&named.unwrap()).unwrap());
        let new_kwargs = texts(&new_kwargs);
        assert!(named.iter().all(|(name, value)| new_kwargs.get(name) == Some(value)));
        match positional {
            // Each new value is in one place.
            Some(positional) => {
                assert!(is_json(&positional));
                let positional = list(&positional).unwrap();
                assert_eq!(positional.len(), old_args.len());
                let moved = positional.iter().zip(&old_args).filter(|(new, old)| new.get() != old.get()).count();
                assert!(moved <= new_kwargs.len() - named.len());
            }
            None => assert_eq!(named.len(), new_kwargs.len()),
        }
    }
});
