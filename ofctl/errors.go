package ofctl

import (
	"fmt"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// SwitchError is an OpenFlow error message: the switch refused something.
type SwitchError struct {
	// Type and Code are OFPET_* and the code of that type (OpenFlow 1.3.5, section
	// 7.4.4). Type 0xffff has codes of the Experimenter's.
	Type, Code   uint16
	Experimenter uint32
	// Request is the start of the message that was refused.
	Request []byte
}

// Types of errors (section 7.4.4).
const (
	ErrTypeHelloFailed         uint16 = 0
	ErrTypeBadRequest          uint16 = 1
	ErrTypeBadAction           uint16 = 2
	ErrTypeBadInstruction      uint16 = 3
	ErrTypeBadMatch            uint16 = 4
	ErrTypeFlowModFailed       uint16 = 5
	ErrTypeGroupModFailed      uint16 = 6
	ErrTypePortModFailed       uint16 = 7
	ErrTypeTableModFailed      uint16 = 8
	ErrTypeQueueOpFailed       uint16 = 9
	ErrTypeSwitchConfigFailed  uint16 = 10
	ErrTypeRoleRequestFailed   uint16 = 11
	ErrTypeMeterModFailed      uint16 = 12
	ErrTypeTableFeaturesFailed uint16 = 13
	ErrTypeExperimenter        uint16 = ofp.ErrorExperimenter
)

// Codes of EXT-230: the first, a message that no bundle takes, and a commit of which a
// message was refused.
const (
	bundleUnknown   = 2300 // the first
	bundleMsgUnsup  = 2310
	bundleMsgFailed = 2313
)

// errorNames has the type's name first, its codes' names behind. It never changes.
var errorNames = map[uint16][]string{
	ErrTypeHelloFailed: {"OFPET_HELLO_FAILED", "OFPHFC_INCOMPATIBLE", "OFPHFC_EPERM"},
	ErrTypeBadRequest: {"OFPET_BAD_REQUEST", "OFPBRC_BAD_VERSION", "OFPBRC_BAD_TYPE", "OFPBRC_BAD_MULTIPART",
		"OFPBRC_BAD_EXPERIMENTER", "OFPBRC_BAD_EXP_TYPE", "OFPBRC_EPERM", "OFPBRC_BAD_LEN", "OFPBRC_BUFFER_EMPTY",
		"OFPBRC_BUFFER_UNKNOWN", "OFPBRC_BAD_TABLE_ID", "OFPBRC_IS_SLAVE", "OFPBRC_BAD_PORT", "OFPBRC_BAD_PACKET",
		"OFPBRC_MULTIPART_BUFFER_OVERFLOW"},
	ErrTypeBadAction: {"OFPET_BAD_ACTION", "OFPBAC_BAD_TYPE", "OFPBAC_BAD_LEN", "OFPBAC_BAD_EXPERIMENTER",
		"OFPBAC_BAD_EXP_TYPE", "OFPBAC_BAD_OUT_PORT", "OFPBAC_BAD_ARGUMENT", "OFPBAC_EPERM", "OFPBAC_TOO_MANY",
		"OFPBAC_BAD_QUEUE", "OFPBAC_BAD_OUT_GROUP", "OFPBAC_MATCH_INCONSISTENT", "OFPBAC_UNSUPPORTED_ORDER",
		"OFPBAC_BAD_TAG", "OFPBAC_BAD_SET_TYPE", "OFPBAC_BAD_SET_LEN", "OFPBAC_BAD_SET_ARGUMENT"},
	ErrTypeBadInstruction: {"OFPET_BAD_INSTRUCTION", "OFPBIC_UNKNOWN_INST", "OFPBIC_UNSUP_INST", "OFPBIC_BAD_TABLE_ID",
		"OFPBIC_UNSUP_METADATA", "OFPBIC_UNSUP_METADATA_MASK", "OFPBIC_BAD_EXPERIMENTER", "OFPBIC_BAD_EXP_TYPE",
		"OFPBIC_BAD_LEN", "OFPBIC_EPERM", "OFPBIC_DUP_INST"},
	ErrTypeBadMatch: {"OFPET_BAD_MATCH", "OFPBMC_BAD_TYPE", "OFPBMC_BAD_LEN", "OFPBMC_BAD_TAG", "OFPBMC_BAD_DL_ADDR_MASK",
		"OFPBMC_BAD_NW_ADDR_MASK", "OFPBMC_BAD_WILDCARDS", "OFPBMC_BAD_FIELD", "OFPBMC_BAD_VALUE", "OFPBMC_BAD_MASK",
		"OFPBMC_BAD_PREREQ", "OFPBMC_DUP_FIELD", "OFPBMC_EPERM"},
	ErrTypeFlowModFailed: {"OFPET_FLOW_MOD_FAILED", "OFPFMFC_UNKNOWN", "OFPFMFC_TABLE_FULL", "OFPFMFC_BAD_TABLE_ID",
		"OFPFMFC_OVERLAP", "OFPFMFC_EPERM", "OFPFMFC_BAD_TIMEOUT", "OFPFMFC_BAD_COMMAND", "OFPFMFC_BAD_FLAGS"},
	ErrTypeGroupModFailed: {"OFPET_GROUP_MOD_FAILED", "OFPGMFC_GROUP_EXISTS", "OFPGMFC_INVALID_GROUP",
		"OFPGMFC_WEIGHT_UNSUPPORTED", "OFPGMFC_OUT_OF_GROUPS", "OFPGMFC_OUT_OF_BUCKETS", "OFPGMFC_CHAINING_UNSUPPORTED",
		"OFPGMFC_WATCH_UNSUPPORTED", "OFPGMFC_LOOP", "OFPGMFC_UNKNOWN_GROUP", "OFPGMFC_CHAINED_GROUP", "OFPGMFC_BAD_TYPE",
		"OFPGMFC_BAD_COMMAND", "OFPGMFC_BAD_BUCKET", "OFPGMFC_BAD_WATCH", "OFPGMFC_EPERM"},
	ErrTypePortModFailed: {"OFPET_PORT_MOD_FAILED", "OFPPMFC_BAD_PORT", "OFPPMFC_BAD_HW_ADDR", "OFPPMFC_BAD_CONFIG",
		"OFPPMFC_BAD_ADVERTISE", "OFPPMFC_EPERM"},
	ErrTypeTableModFailed:     {"OFPET_TABLE_MOD_FAILED", "OFPTMFC_BAD_TABLE", "OFPTMFC_BAD_CONFIG", "OFPTMFC_EPERM"},
	ErrTypeQueueOpFailed:      {"OFPET_QUEUE_OP_FAILED", "OFPQOFC_BAD_PORT", "OFPQOFC_BAD_QUEUE", "OFPQOFC_EPERM"},
	ErrTypeSwitchConfigFailed: {"OFPET_SWITCH_CONFIG_FAILED", "OFPSCFC_BAD_FLAGS", "OFPSCFC_BAD_LEN", "OFPSCFC_EPERM"},
	ErrTypeRoleRequestFailed:  {"OFPET_ROLE_REQUEST_FAILED", "OFPRRFC_STALE", "OFPRRFC_UNSUP", "OFPRRFC_BAD_ROLE"},
	ErrTypeMeterModFailed: {"OFPET_METER_MOD_FAILED", "OFPMMFC_UNKNOWN", "OFPMMFC_METER_EXISTS", "OFPMMFC_INVALID_METER",
		"OFPMMFC_UNKNOWN_METER", "OFPMMFC_BAD_COMMAND", "OFPMMFC_BAD_FLAGS", "OFPMMFC_BAD_RATE", "OFPMMFC_BAD_BURST",
		"OFPMMFC_BAD_BAND", "OFPMMFC_BAD_BAND_VALUE", "OFPMMFC_OUT_OF_METERS", "OFPMMFC_OUT_OF_BANDS"},
	ErrTypeTableFeaturesFailed: {"OFPET_TABLE_FEATURES_FAILED", "OFPTFFC_BAD_TABLE", "OFPTFFC_BAD_METADATA",
		"OFPTFFC_BAD_TYPE", "OFPTFFC_BAD_LEN", "OFPTFFC_BAD_ARGUMENT", "OFPTFFC_EPERM"},
	ErrTypeExperimenter: {"OFPET_EXPERIMENTER"},
}

// bundleErrorNames are EXT-230's codes from 2300 on, which ONF sends as an
// experimenter. It never changes.
var bundleErrorNames = []string{"OFPBFC_UNKNOWN", "OFPBFC_EPERM", "OFPBFC_BAD_ID", "OFPBFC_BUNDLE_EXIST",
	"OFPBFC_BUNDLE_CLOSED", "OFPBFC_OUT_OF_BUNDLES", "OFPBFC_BAD_TYPE", "OFPBFC_BAD_FLAGS", "OFPBFC_MSG_BAD_LEN",
	"OFPBFC_MSG_BAD_XID", "OFPBFC_MSG_UNSUP", "OFPBFC_MSG_CONFLICT", "OFPBFC_MSG_TOO_MANY", "OFPBFC_MSG_FAILED",
	"OFPBFC_TIMEOUT", "OFPBFC_BUNDLE_IN_PROGRESS"}

// Is makes errors.Is find a refusal of the same type, code and experimenter, whatever
// was refused.
func (e *SwitchError) Is(target error) bool {
	t, ok := target.(*SwitchError)
	return ok && t.Type == e.Type && t.Code == e.Code && t.Experimenter == e.Experimenter
}

// Error names the type and the code as the specification does.
func (e *SwitchError) Error() string {
	names := errorNames[e.Type]
	if len(names) == 0 {
		return fmt.Sprintf("ofctl: switch refused: error type %d, code %d", e.Type, e.Code)
	}
	code := fmt.Sprintf("code %d", e.Code)
	switch i := int(e.Code) - bundleUnknown; {
	case e.Type == ErrTypeExperimenter && e.Experimenter == ofp.ExperimenterONF && i >= 0 && i < len(bundleErrorNames):
		code = bundleErrorNames[i]
	case e.Type == ErrTypeExperimenter:
		code = fmt.Sprintf("code %d of experimenter 0x%08x", e.Code, e.Experimenter)
	case int(e.Code)+1 < len(names):
		code = names[e.Code+1]
	}
	return "ofctl: switch refused: " + names[0] + ": " + code
}
