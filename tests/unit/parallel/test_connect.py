from lockstep.parallel.connect import choose_network


def test_network_is_chosen_under_slurms_pmi2_alone():
    under_mpiexec = {"PMI_RANK": "0", "PMI_SIZE": "2"}
    choose_network(under_mpiexec)
    assert under_mpiexec == {"PMI_RANK": "0", "PMI_SIZE": "2"}

    under_srun = {"PMI_JOBID": "7.0"}
    choose_network(under_srun)
    assert under_srun["MPIR_CVAR_CH4_NETMOD"] == "ofi"

    chosen = {"PMI_JOBID": "7.0", "MPIR_CVAR_CH4_NETMOD": "ucx"}
    choose_network(chosen)
    assert chosen["MPIR_CVAR_CH4_NETMOD"] == "ucx"
