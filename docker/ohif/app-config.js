/**
 * OHIF 3.13 for dermatology: one DICOMweb server at /dicom-web of the same origin, and an inline
 * extension that lets the stock image handler show Dermoscopic Photography (77.1.7), which OHIF
 * as shipped lists as unsupported.
 */
window.config = {
  name: 'Lentigo results in OHIF',
  routerBasename: null,
  extensions: [
    {
      id: 'lentigo.dermoscopic-photography',
      preRegistration({ extensionManager }) {
        const DERMOSCOPIC_PHOTOGRAPHY = '1.2.840.10008.5.1.4.1.1.77.1.7';
        const stack = extensionManager.getModuleEntry(
          '@ohif/extension-default.sopClassHandlerModule.stack'
        );
        if (stack && !stack.sopClassUids.includes(DERMOSCOPIC_PHOTOGRAPHY)) {
          stack.sopClassUids.push(DERMOSCOPIC_PHOTOGRAPHY);
        }
      },
    },
  ],
  modes: [],
  customizationService: {},
  showStudyList: true,
  maxNumberOfWebWorkers: 3,
  showWarningMessageForCrossOrigin: true,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  // OHIF is not a medical device here, and neither are the results: ask on every start.
  investigationalUseDialog: { option: 'always' },
  maxNumRequests: { interaction: 100, thumbnail: 5, prefetch: 10 },
  defaultDataSourceName: 'dicomweb',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'dicomweb',
      configuration: {
        friendlyName: 'PACS',
        name: 'pacs',
        wadoUriRoot: '/wado',
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        qidoSupportsIncludeField: false,
        supportsReject: false,
        dicomUploadEnabled: false,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        omitQuotationForMultipartRequest: true,
        bulkDataURI: { enabled: true },
      },
    },
  ],
};
