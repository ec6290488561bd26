//! The VMCS as one table: field encodings, in four enums by what may write them.
//!
//! Source: Intel SDM volume 3, appendix "Field Encoding in VMCS". [`GuestField`]s may be written by whoever decides
//! about a guest: a wrong one hurts that guest alone, or fails its VM entry. [`ControlField`]s and [`HostField`]s
//! decide what the guest can reach and where the CPU goes on a VM exit: only `lamina-hw` writes them.

macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($field:ident = $encoding:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u32)]
        #[expect(missing_docs, reason = "the names are the manual's field names")]
        pub enum $name { $($field = $encoding,)+ }

        impl $name {
            /// Every field of this enum, in the order of the manual's tables.
            pub const ALL: &'static [Self] = &[$(Self::$field,)+];

            /// The field's encoding, as VMREAD and VMWRITE take it.
            #[must_use]
            pub const fn encoding(self) -> u32 {
                self as u32
            }
        }
    };
}

fields!(
    /// The guest-state area.
    GuestField {
        EsSelector = 0x0800, CsSelector = 0x0802, SsSelector = 0x0804, DsSelector = 0x0806,
        FsSelector = 0x0808, GsSelector = 0x080a, LdtrSelector = 0x080c, TrSelector = 0x080e,
        InterruptStatus = 0x0810, PmlIndex = 0x0812,
        VmcsLinkPointer = 0x2800, Ia32Debugctl = 0x2802, Ia32Pat = 0x2804, Ia32Efer = 0x2806,
        Ia32PerfGlobalCtrl = 0x2808, Pdpte0 = 0x280a, Pdpte1 = 0x280c, Pdpte2 = 0x280e, Pdpte3 = 0x2810,
        EsLimit = 0x4800, CsLimit = 0x4802, SsLimit = 0x4804, DsLimit = 0x4806,
        FsLimit = 0x4808, GsLimit = 0x480a, LdtrLimit = 0x480c, TrLimit = 0x480e,
        GdtrLimit = 0x4810, IdtrLimit = 0x4812,
        EsAccessRights = 0x4814, CsAccessRights = 0x4816, SsAccessRights = 0x4818, DsAccessRights = 0x481a,
        FsAccessRights = 0x481c, GsAccessRights = 0x481e, LdtrAccessRights = 0x4820, TrAccessRights = 0x4822,
        InterruptibilityState = 0x4824, ActivityState = 0x4826, Smbase = 0x4828, Ia32SysenterCs = 0x482a,
        PreemptionTimerValue = 0x482e,
        Cr0 = 0x6800, Cr3 = 0x6802, Cr4 = 0x6804,
        EsBase = 0x6806, CsBase = 0x6808, SsBase = 0x680a, DsBase = 0x680c,
        FsBase = 0x680e, GsBase = 0x6810, LdtrBase = 0x6812, TrBase = 0x6814,
        GdtrBase = 0x6816, IdtrBase = 0x6818,
        Dr7 = 0x681a, Rsp = 0x681c, Rip = 0x681e, Rflags = 0x6820, PendingDebugExceptions = 0x6822,
        Ia32SysenterEsp = 0x6824, Ia32SysenterEip = 0x6826,
    }
);

fields!(
    /// The VM-exit information fields.
    ReadOnlyField {
        GuestPhysicalAddress = 0x2400,
        InstructionError = 0x4400, ExitReason = 0x4402,
        ExitInterruptionInformation = 0x4404, ExitInterruptionErrorCode = 0x4406,
        IdtVectoringInformation = 0x4408, IdtVectoringErrorCode = 0x440a,
        ExitInstructionLength = 0x440c, ExitInstructionInformation = 0x440e,
        ExitQualification = 0x6400,
        IoRcx = 0x6402, IoRsi = 0x6404, IoRdi = 0x6406, IoRip = 0x6408,
        GuestLinearAddress = 0x640a,
    }
);

fields!(
    /// The VM-execution, VM-exit and VM-entry control fields.
    ControlField {
        VirtualProcessorIdentifier = 0x0000, PostedInterruptNotificationVector = 0x0002, EptpIndex = 0x0004,
        IoBitmapA = 0x2000, IoBitmapB = 0x2002, MsrBitmap = 0x2004, ExitMsrStoreAddress = 0x2006,
        ExitMsrLoadAddress = 0x2008, EntryMsrLoadAddress = 0x200a, ExecutiveVmcsPointer = 0x200c,
        PmlAddress = 0x200e, TscOffset = 0x2010, VirtualApicAddress = 0x2012, ApicAccessAddress = 0x2014,
        PostedInterruptDescriptorAddress = 0x2016, VmFunctionControls = 0x2018, EptPointer = 0x201a,
        EoiExitBitmap0 = 0x201c, EoiExitBitmap1 = 0x201e, EoiExitBitmap2 = 0x2020, EoiExitBitmap3 = 0x2022,
        EptpListAddress = 0x2024, VmreadBitmap = 0x2026, VmwriteBitmap = 0x2028,
        VirtualizationExceptionAddress = 0x202a, XssExitingBitmap = 0x202c, EnclsExitingBitmap = 0x202e,
        TscMultiplier = 0x2032,
        PinBasedControls = 0x4000, PrimaryProcBasedControls = 0x4002, ExceptionBitmap = 0x4004,
        PageFaultErrorCodeMask = 0x4006, PageFaultErrorCodeMatch = 0x4008, Cr3TargetCount = 0x400a,
        ExitControls = 0x400c, ExitMsrStoreCount = 0x400e, ExitMsrLoadCount = 0x4010,
        EntryControls = 0x4012, EntryMsrLoadCount = 0x4014, EntryInterruptionInformation = 0x4016,
        EntryExceptionErrorCode = 0x4018, EntryInstructionLength = 0x401a, TprThreshold = 0x401c,
        SecondaryProcBasedControls = 0x401e, PleGap = 0x4020, PleWindow = 0x4022,
        Cr0GuestHostMask = 0x6000, Cr4GuestHostMask = 0x6002, Cr0ReadShadow = 0x6004, Cr4ReadShadow = 0x6006,
        Cr3Target0 = 0x6008, Cr3Target1 = 0x600a, Cr3Target2 = 0x600c, Cr3Target3 = 0x600e,
    }
);

fields!(
    /// The host-state area: what the CPU loads on a VM exit.
    HostField {
        EsSelector = 0x0c00, CsSelector = 0x0c02, SsSelector = 0x0c04, DsSelector = 0x0c06,
        FsSelector = 0x0c08, GsSelector = 0x0c0a, TrSelector = 0x0c0c,
        Ia32Pat = 0x2c00, Ia32Efer = 0x2c02, Ia32PerfGlobalCtrl = 0x2c04,
        Ia32SysenterCs = 0x4c00,
        Cr0 = 0x6c00, Cr3 = 0x6c02, Cr4 = 0x6c04,
        FsBase = 0x6c06, GsBase = 0x6c08, TrBase = 0x6c0a, GdtrBase = 0x6c0c, IdtrBase = 0x6c0e,
        Ia32SysenterEsp = 0x6c10, Ia32SysenterEip = 0x6c12, Rsp = 0x6c14, Rip = 0x6c16,
    }
);
