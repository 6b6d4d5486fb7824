//! The page on the change stream is true: its statements run and print what it says.

use crate::server;

const PAGE: &str = include_str!("../../../../docs/src/change-stream.md");

#[test]
fn the_page_does_what_it_says() {
    server().client().batch_execute("CREATE DATABASE page").unwrap();
    let mut blocks = PAGE.split("```");
    let mut ran = 0;
    blocks.next();
    while let Some(block) = blocks.next() {
        let statements = block.strip_prefix("sql\n").expect("a block of statements");
        blocks.next();
        let expected = blocks.next().and_then(|block| block.strip_prefix("text\n"));
        let printed = server().psql("page", &["-qAt"], statements);
        assert_eq!(printed, expected.expect("what they print"), "{statements}");
        blocks.next();
        ran += 1;
    }
    assert_eq!(ran, 4);
}
