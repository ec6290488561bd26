//! Takes the `vmlinux` out of a bzImage: the ELF file inside, which a PVH boot starts without unpacking anything.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

/// Offsets in the setup header: "The Linux/x86 Boot Protocol", "Details of Header Fields".
mod header {
    pub(super) const SETUP_SECTS: usize = 0x1f1;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
}

/// `payload_offset` is there from protocol 2.08 on.
const FIRST_VERSION: u16 = 0x0208;

/// "For backwards compatibility, if the setup_sects field contains 0, the real value is 4."
const DEFAULT_SETUP_SECTS: u8 = 4;

/// No Linux kernel is larger: the limit of what a broken stream may unpack to.
const SIZE_LIMIT: u64 = 512 << 20;

/// The ELF file in a bzImage.
pub fn extract(bzimage: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(bzimage)?;
    let (name, vmlinux) = decompress(payload)?;
    ensure!(vmlinux.starts_with(b"\x7fELF"), "the {name} payload of this kernel holds no ELF file");
    Ok(vmlinux)
}

/// The compressed kernel. "The payload may be compressed. The format of both the compressed and uncompressed data
/// should be determined using the standard magic numbers."
fn payload(bzimage: &[u8]) -> Result<&[u8]> {
    let magic = bzimage.get(header::MAGIC..header::MAGIC + 4);
    ensure!(magic == Some(b"HdrS"), "this is no bzImage: no `HdrS` at {:#x}", header::MAGIC);
    let version = bytes(bzimage, header::VERSION).map(u16::from_le_bytes)?;
    ensure!(version >= FIRST_VERSION, "boot protocol {version:#06x} does not say where the payload is");
    let [setup_sects] = bytes(bzimage, header::SETUP_SECTS)?;
    let setup_sects = if setup_sects == 0 { DEFAULT_SETUP_SECTS } else { setup_sects };
    let offset = usize::try_from(u32::from_le_bytes(bytes(bzimage, header::PAYLOAD_OFFSET)?))?;
    let length = usize::try_from(u32::from_le_bytes(bytes(bzimage, header::PAYLOAD_LENGTH)?))?;
    let start = (usize::from(setup_sects) + 1) * 512 + offset;
    bzimage
        .get(start..)
        .and_then(|rest| rest.get(..length))
        .with_context(|| format!("the payload ({length} bytes at {start:#x}) lies outside of the file: it is cut off"))
}

fn bytes<const N: usize>(image: &[u8], at: usize) -> Result<[u8; N]> {
    image.get(at..at + N).and_then(|slice| slice.try_into().ok()).context("the setup header is cut off")
}

/// Unpacks by the magic number in front. All formats but gzip end with four bytes that the kernel's build adds: the
/// unpacked size.
fn decompress(payload: &[u8]) -> Result<(&'static str, Vec<u8>)> {
    let body = payload.get(..payload.len().saturating_sub(4)).unwrap_or_default();
    let (name, stream): (_, Box<dyn Read + '_>) = match payload {
        [0x1f, 0x8b, ..] => ("gzip", Box::new(flate2::read::GzDecoder::new(payload))),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => ("XZ", Box::new(lzma_rust2::XzReader::new(body, false))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            ("zstd", Box::new(ruzstd::decoding::StreamingDecoder::new(body).context("broken zstd frame")?))
        }
        [0x02, 0x21, 0x4c, 0x18, ..] => ("LZ4", Box::new(lz4_flex::frame::FrameDecoder::new(body))),
        [0x7f, b'E', b'L', b'F', ..] => ("uncompressed", Box::new(payload)),
        _ => bail!("the payload is neither gzip, XZ, zstd, LZ4 nor ELF"),
    };
    let mut vmlinux = Vec::new();
    stream.take(SIZE_LIMIT).read_to_end(&mut vmlinux).with_context(|| format!("the {name} payload is broken"))?;
    Ok((name, vmlinux))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// What is packed in the tests: starts like an ELF file and has more than one LZ4 block's worth of content.
    fn kernel() -> Vec<u8> {
        let mut kernel = b"\x7fELF".to_vec();
        kernel.extend((0..9_000_000_u32).map(|i| (i / 77).to_le_bytes()[0]));
        kernel
    }

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 512 * 3 + 0x20];
        image[header::SETUP_SECTS] = 2;
        image[header::MAGIC..][..4].copy_from_slice(b"HdrS");
        image[header::VERSION..][..2].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[header::PAYLOAD_OFFSET..][..4].copy_from_slice(&0x20_u32.to_le_bytes());
        image[header::PAYLOAD_LENGTH..][..4].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend(payload);
        image
    }

    /// As the kernel's build does it: the unpacked size behind the stream.
    fn with_size(mut stream: Vec<u8>, kernel: &[u8]) -> Vec<u8> {
        stream.extend(u32::try_from(kernel.len()).unwrap().to_le_bytes());
        stream
    }

    #[test]
    fn gzip() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&kernel()).unwrap();
        assert_eq!(extract(&bzimage(&encoder.finish().unwrap())).unwrap(), kernel());
    }

    #[test]
    fn lz4_legacy_frame() {
        // "Legacy frame": the magic number, then blocks of 8 MiB unpacked, each after its packed size.
        let mut stream = 0x184c_2102_u32.to_le_bytes().to_vec();
        for block in kernel().chunks(8 << 20) {
            let packed = lz4_flex::block::compress(block);
            stream.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
            stream.extend(packed);
        }
        assert_eq!(extract(&bzimage(&with_size(stream, &kernel()))).unwrap(), kernel());
    }

    #[test]
    fn xz() {
        let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
        encoder.write_all(&kernel()).unwrap();
        assert_eq!(extract(&bzimage(&with_size(encoder.finish().unwrap(), &kernel()))).unwrap(), kernel());
    }

    #[test]
    fn zstd() {
        let stream =
            ruzstd::encoding::compress_to_vec(kernel().as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
        assert_eq!(extract(&bzimage(&with_size(stream, &kernel()))).unwrap(), kernel());
    }

    #[test]
    fn what_is_no_bzimage_is_refused() {
        let message = |image: &[u8]| format!("{:#}", extract(image).unwrap_err());
        assert!(message(b"short").contains("no bzImage"));
        assert!(message(&kernel()).contains("no bzImage"));
        assert!(message(&bzimage(b"something else")).contains("neither gzip"));
        let mut old = bzimage(&kernel());
        old[header::VERSION] = 7;
        assert!(message(&old).contains("0x0207"));
        let whole = bzimage(&kernel());
        assert!(message(&whole[..whole.len() - 1]).contains("cut off"));
    }

    #[test]
    fn a_payload_that_is_no_elf_is_refused() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"no kernel").unwrap();
        assert!(extract(&bzimage(&encoder.finish().unwrap())).is_err());
    }
}
