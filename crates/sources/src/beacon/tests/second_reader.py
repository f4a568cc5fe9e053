"""A second reader of beacon blocks, by remerkleable (pip install remerkleable): what the tests compare with.

  second_reader.py blocks SEED > blocks.jsonl   blocks of every fork with random contents and items of every kind
  second_reader.py kept FILE.jsonl.zst          reads and hashes such blocks again; prints the forks of those that
                                                are what they say
  second_reader.py files FOLDER                 of recorded blocks, JSON or SSZ: roots, and how many items

The types are those of https://github.com/ethereum/consensus-specs, with the sizes of mainnet.
"""
import json, pathlib, random, subprocess, sys
from remerkleable.basic import uint64, uint256
from remerkleable.bitfields import Bitlist, Bitvector
from remerkleable.byte_arrays import ByteList, ByteVector, Bytes32, Bytes48, Bytes96
from remerkleable.complex import Container, List, Vector

Address = ByteVector[20]
FORKS = ["phase0", "altair", "bellatrix", "capella", "deneb", "electra", "fulu"]

def container(name, **fields):
    return type(name, (Container,), {"__annotations__": fields})

Checkpoint = container("Checkpoint", epoch=uint64, root=Bytes32)
AttestationData = container("AttestationData", slot=uint64, index=uint64, beacon_block_root=Bytes32,
                            source=Checkpoint, target=Checkpoint)
Header = container("BeaconBlockHeader", slot=uint64, proposer_index=uint64, parent_root=Bytes32,
                   state_root=Bytes32, body_root=Bytes32)
SignedHeader = container("SignedBeaconBlockHeader", message=Header, signature=Bytes96)
ProposerSlashing = container("ProposerSlashing", signed_header_1=SignedHeader, signed_header_2=SignedHeader)
DepositData = container("DepositData", pubkey=Bytes48, withdrawal_credentials=Bytes32, amount=uint64,
                        signature=Bytes96)
Deposit = container("Deposit", proof=Vector[Bytes32, 33], data=DepositData)
VoluntaryExit = container("VoluntaryExit", epoch=uint64, validator_index=uint64)
SignedVoluntaryExit = container("SignedVoluntaryExit", message=VoluntaryExit, signature=Bytes96)
Eth1Data = container("Eth1Data", deposit_root=Bytes32, deposit_count=uint64, block_hash=Bytes32)
SyncAggregate = container("SyncAggregate", sync_committee_bits=Bitvector[512], sync_committee_signature=Bytes96)
Withdrawal = container("Withdrawal", index=uint64, validator_index=uint64, address=Address, amount=uint64)
BlsChange = container("BLSToExecutionChange", validator_index=uint64, from_bls_pubkey=Bytes48,
                      to_execution_address=Address)
SignedBlsChange = container("SignedBLSToExecutionChange", message=BlsChange, signature=Bytes96)
DepositRequest = container("DepositRequest", pubkey=Bytes48, withdrawal_credentials=Bytes32, amount=uint64,
                           signature=Bytes96, index=uint64)
WithdrawalRequest = container("WithdrawalRequest", source_address=Address, validator_pubkey=Bytes48, amount=uint64)
Consolidation = container("ConsolidationRequest", source_address=Address, source_pubkey=Bytes48,
                          target_pubkey=Bytes48)
Requests = container("ExecutionRequests", deposits=List[DepositRequest, 8192],
                     withdrawals=List[WithdrawalRequest, 16], consolidations=List[Consolidation, 2])

def body_of(fork):
    since = lambda name: FORKS.index(fork) >= FORKS.index(name)
    committees = 64 if since("electra") else 1
    indexed = container("IndexedAttestation", attesting_indices=List[uint64, 2048 * committees],
                        data=AttestationData, signature=Bytes96)
    slashing = container("AttesterSlashing", attestation_1=indexed, attestation_2=indexed)
    attestation = dict(aggregation_bits=Bitlist[2048 * committees], data=AttestationData, signature=Bytes96)
    if since("electra"):
        attestation["committee_bits"] = Bitvector[64]
    fields = dict(
        randao_reveal=Bytes96, eth1_data=Eth1Data, graffiti=Bytes32,
        proposer_slashings=List[ProposerSlashing, 16],
        attester_slashings=List[slashing, 1 if since("electra") else 2],
        attestations=List[container("Attestation", **attestation), 8 if since("electra") else 128],
        deposits=List[Deposit, 16], voluntary_exits=List[SignedVoluntaryExit, 16])
    if since("altair"):
        fields["sync_aggregate"] = SyncAggregate
    if since("bellatrix"):
        payload = dict(
            parent_hash=Bytes32, fee_recipient=Address, state_root=Bytes32, receipts_root=Bytes32,
            logs_bloom=ByteVector[256], prev_randao=Bytes32, block_number=uint64, gas_limit=uint64,
            gas_used=uint64, timestamp=uint64, extra_data=ByteList[32], base_fee_per_gas=uint256,
            block_hash=Bytes32, transactions=List[ByteList[1 << 30], 1 << 20])
        if since("capella"):
            payload["withdrawals"] = List[Withdrawal, 16]
        if since("deneb"):
            payload.update(blob_gas_used=uint64, excess_blob_gas=uint64)
        fields["execution_payload"] = container("ExecutionPayload", **payload)
    if since("capella"):
        fields["bls_to_execution_changes"] = List[SignedBlsChange, 16]
    if since("deneb"):
        fields["blob_kzg_commitments"] = List[Bytes48, 4096]
    if since("electra"):
        fields["execution_requests"] = Requests
    return container("BeaconBlockBody", **fields)

def block_of(fork):
    return container("BeaconBlock", slot=uint64, proposer_index=uint64, parent_root=Bytes32, state_root=Bytes32,
                     body=body_of(fork))

# --- as the API writes it ---------------------------------------------------------------------------------------

def written(value):
    if isinstance(value, Container):
        return {name: written(getattr(value, name)) for name in type(value).fields()}
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, (Bitlist, Bitvector, ByteList, ByteVector)):
        return "0x" + value.encode_bytes().hex()
    return [written(item) for item in value]

def read(of, value):
    if issubclass(of, Container):
        assert set(value) == set(of.fields()), set(value) ^ set(of.fields())
        return of(**{name: read(field, value[name]) for name, field in of.fields().items()})
    if issubclass(of, int):
        return of(int(value))
    if issubclass(of, (Bitlist, Bitvector, ByteList, ByteVector)):
        return of.decode_bytes(bytes.fromhex(value[2:]))
    return of(*[read(of.element_cls(), item) for item in value])

# --- random blocks ----------------------------------------------------------------------------------------------

def made(of, rng, most=3):
    if issubclass(of, Container):
        return of(**{name: made(field, rng) for name, field in of.fields().items()})
    if issubclass(of, int):
        return of(rng.getrandbits(8 * of.type_byte_length()))
    if issubclass(of, ByteVector):
        return of(rng.randbytes(of.type_byte_length()))
    if issubclass(of, ByteList):
        return of(rng.randbytes(rng.randint(0, min(200, of.limit()))))
    if issubclass(of, Bitvector):
        return of(*[rng.getrandbits(1) for _ in range(of.vector_length())])
    if issubclass(of, Bitlist):
        return of(*[rng.getrandbits(1) for _ in range(rng.randint(0, 700))])
    if issubclass(of, Vector):
        return of(*[made(of.element_cls(), rng) for _ in range(of.vector_length())])
    return of(*[made(of.element_cls(), rng) for _ in range(rng.randint(1, min(most, of.limit())))])

def counts(body):
    """The number of rows of each table, in the order of the tables."""
    count = lambda name: len(getattr(body, name)) if name in type(body).fields() else 0
    payload = getattr(body, "execution_payload", None)
    requests = getattr(body, "execution_requests", None)
    return [
        1, count("attestations"), count("deposits"),
        len(payload.withdrawals) if payload is not None and "withdrawals" in type(payload).fields() else 0,
        count("voluntary_exits"), count("proposer_slashings"), count("attester_slashings"),
        count("bls_to_execution_changes"),
        sum(len(getattr(requests, name)) for name in type(requests).fields()) if requests is not None else 0]

def root(value):
    return "0x" + value.hash_tree_root().hex()

def blocks(seed):
    rng = random.Random(seed)
    for slot, fork in enumerate(FORKS):
        block = made(block_of(fork), rng)
        block.slot = slot
        signature = "0x" + rng.randbytes(96).hex()
        message = written(block)
        header = {**message, "body_root": root(block.body)}
        del header["body"]
        print(json.dumps({
            "rows": counts(block.body),
            "header": {"data": {"root": root(block), "canonical": True,
                                "header": {"message": header, "signature": signature}}},
            "block": {"version": fork, "data": {"message": message, "signature": signature}},
        }, separators=(",", ":")))

def kept(path):
    import pyarrow
    for line in pyarrow.input_stream(path, compression="zstd").read().splitlines():
        line = json.loads(line)
        fork, message, header = line["block"]["version"], line["block"]["data"]["message"], line["header"]["data"]
        block = read(block_of(fork), message)
        assert written(block) == message, fork
        assert root(block) == header["root"], fork
        assert root(block.body) == header["header"]["message"]["body_root"], fork
        assert counts(block.body) == line["rows"], fork
        print(fork)

# --- recorded ones ----------------------------------------------------------------------------------------------

# What SSZ does not say of itself: the first fork that a file's block is of.
SSZ = {"portal-el15537394": "bellatrix", "portal-el17034869": "bellatrix", "portal-el19426586": "capella",
       "portal-el19426587": "deneb"}

def files(folder):
    for path in sorted(pathlib.Path(folder).iterdir()):
        packed = path.read_bytes()
        if path.suffix == ".zst":
            packed = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout
        if ".ssz" in path.name:
            fork = SSZ[path.name.split("-block")[0]]
            block = block_of(fork).decode_bytes(packed)
        elif path.name.endswith((".json", ".json.zst")) and "block" in path.name:
            value = json.loads(packed)
            value = value.get("data", {}).get("message", value)
            if "body" not in value:
                continue
            body = value["body"]
            fork = next(fork for fork in reversed(FORKS[:-1]) if set(body_of(fork).fields()) == set(body)
                        and ("blob_gas_used" in body.get("execution_payload", {})) == (fork in ("deneb", "electra"))
                        and ("withdrawals" in body.get("execution_payload", {})) == (FORKS.index(fork) > 2))
            block = read(block_of(fork), value)
        else:
            continue
        print(path.name, fork, root(block), root(block.body), counts(block.body))

if __name__ == "__main__":
    {"blocks": blocks, "kept": kept, "files": files}[sys.argv[1]](sys.argv[2])
