//! "Checks on Guest Segment Registers" and "Checks on Guest Descriptor-Table Registers".

use super::{CR0_PE, Checker};
use crate::vmx::GuestField;

/// The four fields of a segment register.
#[derive(Clone, Copy)]
struct Fields {
    selector: GuestField,
    base: GuestField,
    limit: GuestField,
    access_rights: GuestField,
}

macro_rules! segment {
    ($selector:ident $base:ident $limit:ident $access_rights:ident) => {
        Fields {
            selector: GuestField::$selector,
            base: GuestField::$base,
            limit: GuestField::$limit,
            access_rights: GuestField::$access_rights,
        }
    };
}

const CS: Fields = segment!(CsSelector CsBase CsLimit CsAccessRights);
const SS: Fields = segment!(SsSelector SsBase SsLimit SsAccessRights);
const DS: Fields = segment!(DsSelector DsBase DsLimit DsAccessRights);
const ES: Fields = segment!(EsSelector EsBase EsLimit EsAccessRights);
const FS: Fields = segment!(FsSelector FsBase FsLimit FsAccessRights);
const GS: Fields = segment!(GsSelector GsBase GsLimit GsAccessRights);
const TR: Fields = segment!(TrSelector TrBase TrLimit TrAccessRights);
const LDTR: Fields = segment!(LdtrSelector LdtrBase LdtrLimit LdtrAccessRights);

/// The access-rights field, taken apart.
#[derive(Clone, Copy)]
struct Rights(u64);

impl Rights {
    const fn kind(self) -> u64 {
        self.0 & 0xf
    }

    const fn is_code_or_data(self) -> bool {
        self.0 & 1 << 4 != 0
    }

    const fn dpl(self) -> u64 {
        self.0 >> 5 & 3
    }

    const fn is_present(self) -> bool {
        self.0 & 1 << 7 != 0
    }

    const fn is_long(self) -> bool {
        self.0 & 1 << 13 != 0
    }

    const fn is_default_32(self) -> bool {
        self.0 & 1 << 14 != 0
    }

    const fn granularity(self) -> bool {
        self.0 & 1 << 15 != 0
    }

    const fn is_usable(self) -> bool {
        self.0 & 1 << 16 == 0
    }

    /// Bits 31:17 and 11:8.
    const fn reserved(self) -> u64 {
        self.0 & 0xfffe_0f00
    }
}

/// A virtual-8086 segment: a present, read/write, accessed data segment of DPL 3.
const VIRTUAL_8086_RIGHTS: u64 = 0xf3;

impl Checker<'_> {
    pub(super) fn segments(&mut self) {
        if self.virtual_8086() {
            self.virtual_8086_segments();
        } else {
            self.code_segment();
            self.stack_segment();
            for segment in [DS, ES, FS, GS] {
                self.data_segment(segment);
            }
        }
        self.bases();
        self.task_register();
        self.local_descriptor_table();
        self.descriptor_tables();
    }

    fn rights(&self, segment: Fields) -> Rights {
        Rights(self.read(segment.access_rights))
    }

    fn rpl(&self, segment: Fields) -> u64 {
        self.read(segment.selector) & 3
    }

    fn virtual_8086_segments(&mut self) {
        for segment in [CS, SS, DS, ES, FS, GS] {
            let base = self.read(segment.selector) << 4;
            self.require(
                self.read(segment.base) == base,
                segment.base,
                "in a virtual-8086 guest, the base must be the selector times 16",
            );
            self.require(
                self.read(segment.limit) == 0xffff,
                segment.limit,
                "in a virtual-8086 guest, the limit must be 0000FFFFH",
            );
            self.require(
                self.read(segment.access_rights) == VIRTUAL_8086_RIGHTS,
                segment.access_rights,
                "in a virtual-8086 guest, the access rights must be 000000F3H",
            );
        }
    }

    fn code_segment(&mut self) {
        let field = CS.access_rights;
        let rights = self.rights(CS);
        let ss_dpl = self.rights(SS).dpl();
        let unrestricted = self.context.unrestricted_guest;
        match rights.kind() {
            3 if unrestricted => {
                self.require(rights.dpl() == 0, field, "bits 6:5 (DPL) must be 0 for a CS of type 3");
            }
            9 | 11 => self.require(
                rights.dpl() == ss_dpl,
                field,
                "bits 6:5 (DPL) of a non-conforming CS (type 9 or 11) must equal the DPL of SS",
            ),
            13 | 15 => self.require(
                rights.dpl() <= ss_dpl,
                field,
                "bits 6:5 (DPL) of a conforming CS (type 13 or 15) must not be greater than the DPL of SS",
            ),
            _ => self.require(
                false,
                field,
                "bits 3:0 (type) of CS must be 9, 11, 13 or 15 (accessed code), or 3 with unrestricted guest",
            ),
        }
        self.require(
            !(self.long_mode() && rights.is_long() && rights.is_default_32()),
            field,
            "bit 14 (D/B) of CS must be 0 in an IA-32e mode guest if bit 13 (L) is 1",
        );
        self.present_segment(CS);
    }

    fn stack_segment(&mut self) {
        let field = SS.access_rights;
        let rights = self.rights(SS);
        let unrestricted = self.context.unrestricted_guest;
        if rights.is_usable() {
            self.require(
                matches!(rights.kind(), 3 | 7),
                field,
                "bits 3:0 (type) of a usable SS must be 3 or 7 (read/write, accessed data)",
            );
            self.present_segment(SS);
        }
        if !unrestricted {
            self.require(
                self.rpl(SS) == self.rpl(CS),
                SS.selector,
                "the RPL must equal the RPL of CS without unrestricted guest",
            );
            self.require(
                rights.dpl() == self.rpl(SS),
                field,
                "bits 6:5 (DPL) of SS must equal the RPL of its selector",
            );
        }
        if self.rights(CS).kind() == 3 || self.clear(GuestField::Cr0, CR0_PE) {
            self.require(rights.dpl() == 0, field, "bits 6:5 (DPL) of SS must be 0 if CS is of type 3, or CR0.PE is 0");
        }
    }

    fn data_segment(&mut self, segment: Fields) {
        let rights = self.rights(segment);
        if !rights.is_usable() {
            return;
        }
        self.require(
            rights.kind() & 1 != 0,
            segment.access_rights,
            "bit 0 of the type of a usable data segment must be 1 (accessed)",
        );
        self.require(
            rights.kind() & 8 == 0 || rights.kind() & 2 != 0,
            segment.access_rights,
            "bit 1 of the type of a code segment in a data-segment register must be 1 (readable)",
        );
        if !self.context.unrestricted_guest && rights.kind() <= 11 {
            self.require(
                rights.dpl() >= self.rpl(segment),
                segment.access_rights,
                "bits 6:5 (DPL) must not be less than the RPL of the selector without unrestricted guest",
            );
        }
        self.present_segment(segment);
    }

    /// What holds for CS, and for SS, DS, ES, FS and GS where they are usable.
    fn present_segment(&mut self, segment: Fields) {
        let rights = self.rights(segment);
        self.require(rights.is_code_or_data(), segment.access_rights, "bit 4 (S) must be 1");
        self.present(segment);
    }

    /// What holds for every usable segment register.
    fn present(&mut self, segment: Fields) {
        let rights = self.rights(segment);
        let limit = self.read(segment.limit);
        self.require(rights.is_present(), segment.access_rights, "bit 7 (P) must be 1");
        self.require(rights.reserved() == 0, segment.access_rights, "bits 31:17 and 11:8 must be 0");
        self.require(
            limit & 0xfff == 0xfff || !rights.granularity(),
            segment.access_rights,
            "bit 15 (G) must be 0 if any bit in the limit's range 11:0 is 0",
        );
        self.require(
            limit & 0xfff0_0000 == 0 || rights.granularity(),
            segment.access_rights,
            "bit 15 (G) must be 1 if any bit in the limit's range 31:20 is 1",
        );
    }

    fn bases(&mut self) {
        for segment in [TR, FS, GS, LDTR] {
            let needed = segment.base != LDTR.base || self.rights(LDTR).is_usable();
            let canonical = self.is_canonical(self.read(segment.base));
            self.require(!needed || canonical, segment.base, "the address must be canonical");
        }
        for segment in [CS, SS, DS, ES] {
            let needed = segment.base == CS.base || self.rights(segment).is_usable();
            self.require(
                !needed || self.read(segment.base) >> 32 == 0,
                segment.base,
                "bits 63:32 of the address must be 0",
            );
        }
    }

    fn task_register(&mut self) {
        let field = TR.access_rights;
        let rights = self.rights(TR);
        self.require(self.clear(TR.selector, 1 << 2), TR.selector, "bit 2 (TI) must be 0");
        if self.long_mode() {
            self.require(
                rights.kind() == 11,
                field,
                "bits 3:0 (type) of TR must be 11 (64-bit busy TSS) in IA-32e mode",
            );
        } else {
            self.require(
                matches!(rights.kind(), 3 | 11),
                field,
                "bits 3:0 (type) of TR must be 3 (16-bit busy TSS) or 11 (32-bit busy TSS)",
            );
        }
        self.require(!rights.is_code_or_data(), field, "bit 4 (S) of TR must be 0");
        self.require(rights.is_usable(), field, "bit 16 (unusable) of TR must be 0");
        self.present(TR);
    }

    fn local_descriptor_table(&mut self) {
        let rights = self.rights(LDTR);
        if !rights.is_usable() {
            return;
        }
        self.require(self.clear(LDTR.selector, 1 << 2), LDTR.selector, "bit 2 (TI) must be 0");
        self.require(rights.kind() == 2, LDTR.access_rights, "bits 3:0 (type) of a usable LDTR must be 2 (LDT)");
        self.require(!rights.is_code_or_data(), LDTR.access_rights, "bit 4 (S) of LDTR must be 0");
        self.present(LDTR);
    }

    fn descriptor_tables(&mut self) {
        for (base, limit) in
            [(GuestField::GdtrBase, GuestField::GdtrLimit), (GuestField::IdtrBase, GuestField::IdtrLimit)]
        {
            self.require(self.is_canonical(self.read(base)), base, "the address must be canonical");
            self.require(self.clear(limit, 0xffff_0000), limit, "bits 31:16 must be 0");
        }
    }
}
