//! Pulls a model into a directory and says where it is:
//! `cargo run -p quarrel-store --example pull -- DIR smollm2-135m`

use quarrel_store::{Config, Event, ModelName, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(name)) = (args.next(), args.next()) else {
        return Err("usage: pull DIR NAME".into());
    };
    let name: ModelName = name.parse()?;
    let model = Store::open(Config::new(dir)).pull(&name, &mut |event: &Event<'_>| match event {
        Event::Bytes { file, done, total: Some(total), .. } => eprint!("\r{file}: {done} of {total} bytes"),
        Event::Unpacking { done, total, .. } if done < total => {}
        other => eprintln!("\r{other:?}"),
    })?;
    println!("{}", model.path.display());
    Ok(())
}
