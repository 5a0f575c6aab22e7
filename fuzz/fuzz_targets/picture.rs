//! Pictures: any bytes as a PNG or JPEG. What is read can be cropped, resized and written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lnca::io::{Picture, ResizeMode, write_png};
use lnca_fuzz::files::{file, folder};

fuzz_target!(|bytes: &[u8]| {
    let Ok(picture) = Picture::read(file("picture.png", bytes)) else {
        return;
    };
    assert_eq!(picture.pixels.len(), picture.height * picture.width * 3);
    if picture.pixels.len() < 1 << 16 {
        picture
            .square(7, ResizeMode::Crop)
            .expect("a picture has a pixel");
        let written = folder().join("written.png");
        write_png(&picture, &written).expect("a picture that was read can be written");
        assert!(Picture::read(&written).expect("what was written can be read") == picture);
    }
});
